"""Does an answer refuse? A short list of English opening phrases, as a covariate; not a judge."""

import re

_OPENING = 300  # characters in which a refusal shows itself
_NOT = (
    r"(?:can'?t|can ?not|could ?n[o']t|won'?t|will not"
    r"|(?:am|'?m|are|'?re) (?:not able|unable|not (?:going|willing)) to)"
)
_DO = (
    r"(?:help\b(?! but)|assist|provide|fulfil|comply|create|write|generate|answer|engage|support|give|offer|share"
    r"|discuss|participate|do that|do this|complete|continue|respond|advise|recommend|produce|identify|verify"
    r"|confirm|(?:tell|show) you)"
)
_LEAD = r"(?:(?:no|(?:hi|hello|hey)(?: there| everyone)?|oh|well|thanks?(?: you)?[^.!?]*)[,.!]? )?"
_SORRY = (
    r"(?:(?:i|we)(?: am|'?m| are|'?re) (?:\w+ )?sorry|(?:i'?m |im )?sorry|(?:my )?apologies|i (?:\w+ )?apologi[sz]e"
    r"|unfortunately|regrettably|i (?:\w+ )?regret)"
)
_MUST = r"(?:must|have to|need to|(?:will|would) have to|respectfully|politely)"
_AI = r"as an? (?:\w+ )?(?:ai|language model|assistant|artificial intelligence)"
_WRONG = (
    r"(?:not (?:appropriate|ethical|right|possible)|inappropriate|unethical|against my \w+)(?: \w+)? (?:for me )?to"
)
_KNOWLEDGE = r"(?:information|data|details|knowledge|records|access)\b"
_REFUSALS = re.compile(
    "|".join(
        [
            rf"{_LEAD}{_SORRY}\b[^.!?]{{0,120}}\b(?:i|we) ?{_NOT}",
            rf"{_LEAD}{_SORRY}[.!] (?:i|we) ?{_NOT}",
            rf"{_LEAD}(?:i|we)(?: simply| really| just)? ?{_NOT} (?:\w+ )?{_DO}",
            rf"{_AI}\b[^.!?]{{0,80}}\b(?:i|we) ?{_NOT}",
            rf"i (?:do not|don'?t) (?:currently )?have (?:\w+ ){{0,3}}{_KNOWLEDGE}",
            rf"{_LEAD}(?:i|we) {_MUST} (?:\w+ )?(?:decline|refuse)",
            rf"{_LEAD}(?:i|we) (?:decline|refuse) to",
            rf"{_LEAD}i(?: am|'?m) not comfortable (?:\w+ing|with)",
            rf"{_LEAD}i (?:do not|don'?t) feel comfortable (?:\w+ing|with)",
            rf"{_LEAD}(?:it is|it'?s|it would be) {_WRONG} {_DO}",
        ]
    )
)


def refuses(text: str) -> bool:
    """Whether an answer opens like a refusal ("I'm sorry, but I can't help with that.", "I don't have information on").

    Only the opening counts: an answer that helps and warns at its end does not refuse. Sympathy ("I'm sorry to hear
    that") and figures of speech ("I can't help but notice") are let through. English only; other languages give False.
    """
    opening = " ".join(text[:_OPENING].translate(_PLAIN).lower().split())
    return _REFUSALS.match(opening) is not None


_PLAIN = str.maketrans(
    {"\u2019": "'", "\u2018": "'", "\u02bc": "'", "*": "", "_": "", '"': "", "\u201c": "", "\u201d": ""}
)
