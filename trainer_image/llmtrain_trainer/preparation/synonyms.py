"""A small lexicon of English: words that may stand for each other in most sentences.

Below: nothing. Above: `augment`.

Written for this program, and small on purpose: a word is here only with others of its form and
part of speech that rarely change what a sentence says. Words of two meanings are not.
"""

from __future__ import annotations

GROUPS = """
big large; small little; quick fast rapid; quickly rapidly; begin start; begins starts;
began started; end finish; ends finishes; ended finished; buy purchase; bought purchased;
help assist; helps assists; helped assisted; show demonstrate; shows demonstrates;
showed demonstrated; need require; needs requires; needed required; use employ; uses employs;
choose select; chooses selects; chose selected; allow permit; allows permits; allowed permitted;
answer reply; answers replies; ask inquire; asked inquired; build construct; builds constructs;
built constructed; create produce; creates produces; created produced; error mistake;
errors mistakes; happy glad; sad unhappy; smart clever; difficult hard; easy simple;
important significant; also additionally; but however; often frequently; rarely seldom;
usually normally; perhaps maybe; almost nearly; about approximately; entire whole;
correct right; wrong incorrect; quiet silent; strange odd; famous well-known; rich wealthy;
tired weary; angry furious; afraid scared; beautiful lovely; terrible awful; great excellent;
good fine; bad poor; enough sufficient; many numerous; main principal; various different;
get obtain; gets obtains; got obtained; give provide; gives provides; gave provided;
keep retain; keeps retains; kept retained; try attempt; tries attempts; tried attempted;
happen occur; happens occurs; happened occurred; seem appear; seems appears; seemed appeared;
think believe; thinks believes; thought believed; understand comprehend; explain clarify;
explains clarifies; explained clarified; reduce decrease; reduces decreases; reduced decreased;
increase raise; increases raises; increased raised; change alter; changes alters;
changed altered; destroy ruin; destroys ruins; destroyed ruined; fix repair; fixes repairs;
fixed repaired; job occupation; car automobile; cars automobiles; child kid; children kids;
house home; houses homes; road street; roads streets; movie film; movies films;
picture image; pictures images; story tale; stories tales; idea notion; ideas notions;
way manner; ways manners; place location; places locations; goal aim; goals aims;
result outcome; results outcomes; reason cause; reasons causes; part portion; parts portions;
since because; therefore thus; although though; while whereas; until till
"""

SYNONYMS: dict[str, tuple[str, ...]] = {}
"""Other words of its group, for each word in small letters."""

for _group in GROUPS.replace("\n", " ").split(";"):
    _words = _group.split()
    for _word in _words:
        SYNONYMS.setdefault(_word, tuple(other for other in _words if other != _word))
