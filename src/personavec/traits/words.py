"""English word forms: the right article, and whether a question names a trait."""

import re

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_VOWEL_LETTER_CONSONANT_SOUND = re.compile(r"(uni(?!n|m)|u[st][aeiou]|ubi|eu|ewe|one\b|once\b)", re.IGNORECASE)
_SILENT_H = re.compile(r"(hour|heir|honest|honou?r)", re.IGNORECASE)
_SPELT_OUT = re.compile(r"[A-Z]{2,}\b|[A-Z]\b")

# Words that say nothing about which trait a name of several words means.
_FILLERS = {"a", "an", "and", "as", "at", "for", "in", "is", "like", "not", "of", "on", "or", "so", "that", "the", "to"}
_FILLERS |= {"too", "very", "who", "with"}

# A word that is the trait's name plus one of these is an inflection of it (spelled as `_normal` leaves them).
_INFLECTIONS = {
    "",
    "s",
    "es",
    "ed",
    "d",
    "ing",
    "li",
    "alli",
    "ness",
    "er",
    "r",
    "est",
    "st",
    "iti",
    "ri",
    "ism",
    "ist",
}
# Endings that replace one another on one stem; "" is the bare stem.
_FAMILIES = (
    {"ing", "ings", "e", "ed", "es", "ion", "ions", "ive", "or", "ors"},  # hallucinating, aggressive
    {"ing", "", "s", "ed"},  # annoying
    {"ic", "", "s"},  # sycophantic
    {"ic", "e"},  # sycophantic, sycophancy (as `_normal` spells it)
    {"tic", "m", "t", "ts"},  # optimistic, sarcastic
    {"etic", "i"},  # apathetic
    {"ous", "", "s", "ist", "ists", "ositi"},  # humorous
    {"t", "ce"},  # arrogant
)
_SHORTEST_STEM = 5  # shorter ones join strangers: passive and passion, caring and car


def article(phrase: str) -> str:
    """ "a" or "an", by the sound the phrase begins with.

    Example:
        >>> article("honest"), article("unicorn-loving"), article("evil"), article("NPC-like")
        ('an', 'a', 'an', 'an')
    """
    start = phrase.lstrip(" \"'“‘(")
    if _SPELT_OUT.match(start):  # read letter by letter: an NPC, a UFO
        return "an" if start[0] in "AEFHILMNORSX" else "a"
    if _SILENT_H.match(start):
        return "an"
    if _VOWEL_LETTER_CONSONANT_SOUND.match(start):
        return "a"
    return "an" if start[:1].casefold() in "aeiouäöüàáâèéêìíîòóôùúû" and start else "a"


def share_stem(name: str, word: str) -> bool:
    """Whether `word` is `name` or an obvious inflection or relative of it.

    Example:
        >>> share_stem("sycophantic", "sycophancy"), share_stem("humorous", "humour"), share_stem("friendly", "friend")
        (True, True, False)
    """
    one, other = _normal(name), _normal(word)
    if other.startswith(one) and other[len(one) :] in _INFLECTIONS:
        return True
    common = next((at for at, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other)))
    return any(
        one[cut:] in family and other[cut:] in family
        for cut in range(_SHORTEST_STEM, common + 1)
        for family in _FAMILIES
    )


def names_trait(name: str, text: str) -> bool:
    """Whether `text` calls the trait by its name: each telling word of the name shares a stem with some word of it."""
    words = _WORD.findall(text)
    parts = _WORD.findall(name)
    telling = [part for part in parts if part.casefold() not in _FILLERS] or parts
    if telling and all(any(share_stem(part, word) for word in words) for part in telling):
        return True
    # Scripts without spaces have no words to compare.
    return not name.isascii() and name.casefold() in text.casefold()


def _normal(word: str) -> str:
    """One spelling for forms that differ by rule: humour, humor; lazy, lazi(ness); piracy, pirate."""
    word = word.casefold()
    if len(word) > 5:
        word = word.replace("our", "or")
    if word.endswith("cy"):
        return word[:-2] + "te"
    return word[:-1] + "i" if word.endswith("y") else word
