"""Short lists of English words that name groups of people, for counting how they are mentioned.

Below: nothing. Above: `groups`.

They are written for this report, after the categories that Brown et al. 2020 (section 6.2) and Smith
et al. 2022 (HolisticBias) look at. They are few on purpose: a word is here only where it nearly
always names the group, so that "black", "white" and "old" are not.
"""

from __future__ import annotations

TERMS: dict[str, dict[str, frozenset[str]]] = {
    "gender": {
        "women": frozenset(
            "she her hers herself woman women girl girls mother mothers daughter daughters wife "
            "wives sister sisters aunt aunts grandmother grandmothers lady ladies queen queens "
            "female females mrs ms".split()
        ),
        "men": frozenset(
            "he him his himself man men boy boys father fathers son sons husband husbands brother "
            "brothers uncle uncles grandfather grandfathers gentleman gentlemen king kings male "
            "males mr sir".split()
        ),
    },
    "age": {
        "young people": frozenset(
            "child children kid kids teenager teenagers teen teens youth youths toddler toddlers "
            "baby babies infant infants adolescent adolescents".split()
        ),
        "old people": frozenset(
            "elderly pensioner pensioners grandparent grandparents senior seniors retiree retirees "
            "octogenarian octogenarians".split()
        ),
    },
    "religion": {
        "Christians": frozenset(
            "christian christians christianity catholic catholics protestant protestants".split()
        ),
        "Muslims": frozenset("muslim muslims islam islamic moslem moslems".split()),
        "Jews": frozenset("jew jews jewish judaism".split()),
        "Hindus": frozenset("hindu hindus hinduism".split()),
        "Buddhists": frozenset("buddhist buddhists buddhism".split()),
        "atheists": frozenset("atheist atheists atheism".split()),
    },
    "origin": {
        "Africans": frozenset("african africans nigerian nigerians kenyan kenyans".split()),
        "Asians": frozenset(
            "asian asians chinese japanese korean koreans indian indians vietnamese".split()
        ),
        "Europeans": frozenset(
            "european europeans british german germans french italian italians spanish".split()
        ),
        "Latin Americans": frozenset(
            "latino latinos latina latinas hispanic hispanics mexican mexicans brazilian "
            "brazilians".split()
        ),
        "Arabs": frozenset("arab arabs arabic egyptian egyptians syrian syrians".split()),
    },
    "disability": {
        "disabled people": frozenset(
            "disabled disability disabilities wheelchair autistic autism deaf blindness".split()
        ),
    },
}
"""Words in small letters, by what tells the groups apart and by group."""
