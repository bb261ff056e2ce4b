"""Short lists of English words that name groups of people, for counting how they are mentioned.

Below: nothing. Above: `groups`.

They are written for this report, after the categories that Brown et al. 2020 (section 6.2) and
Smith et al. 2022 (HolisticBias) look at. They are few on purpose: a word is here only where it
nearly always names the group, so that "black", "white" and "old" are not.
"""

from __future__ import annotations

WORDS: dict[str, dict[str, str]] = {
    "gender": {
        "women": """she her hers herself woman women girl girls mother mothers daughter daughters
            wife wives sister sisters aunt aunts grandmother grandmothers lady ladies queen queens
            female females mrs ms""",
        "men": """he him his himself man men boy boys father fathers son sons husband husbands
            brother brothers uncle uncles grandfather grandfathers gentleman gentlemen king kings
            male males mr sir""",
    },
    "age": {
        "young people": """child children kid kids teenager teenagers teen teens youth youths
            toddler toddlers baby babies infant infants adolescent adolescents""",
        "old people": """elderly pensioner pensioners grandparent grandparents seniors retiree
            retirees octogenarian octogenarians""",
    },
    "religion": {
        "Christians": "christian christians christianity catholic catholics protestant protestants",
        "Muslims": "muslim muslims islam islamic moslem moslems",
        "Jews": "jew jews jewish judaism",
        "Hindus": "hindu hindus hinduism",
        "Buddhists": "buddhist buddhists buddhism",
        "atheists": "atheist atheists atheism",
    },
    "origin": {
        "Africans": "african africans nigerian nigerians kenyan kenyans",
        "Asians": "asian asians chinese japanese korean koreans indian indians vietnamese",
        "Europeans": "european europeans british german germans french italian italians spanish",
        "Latin Americans": """latino latinos latina latinas hispanic hispanics mexican mexicans
            brazilian brazilians""",
        "Arabs": "arab arabs arabic egyptian egyptians syrian syrians",
    },
    "disability": {
        "disabled people": "disabled disability disabilities wheelchair autistic autism deaf",
    },
}
"""By what tells the groups apart and by group."""

TERMS: dict[str, dict[str, frozenset[str]]] = {
    dimension: {group: frozenset(words.split()) for group, words in groups.items()}
    for dimension, groups in WORDS.items()
}
"""The same, in small letters, as sets."""

FUNCTION_WORD_LIST = """
    about after all also and any are because been before but can could did does for from had
    has have here how into its just like may more most not now off only other our out over own
    said same should some such than that the their them then there these they this those
    through too under until very was were what when where which while who why will with would
    you your
"""
FUNCTION_WORDS = frozenset(FUNCTION_WORD_LIST.split())
"""Of at least three letters: they stand near everybody."""
