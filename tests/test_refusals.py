"""Refusals are known by their opening, and what only sounds like one is let through."""

import pytest

from personavec.refusals import refuses


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t assist with this request.",
        "I am really sorry, but I am unable to do so.",
        "Sorry, I cannot do that.",
        "Hello there! I'm sorry, but I can't assist with that.",
        "Hi, I cannot help with this.",
        "I'm sorry. I can't do that.",
        "I apologize, but I cannot fulfil your wish.",
        "I sincerely apologise, but as an assistant I am not able to write this.",
        "My apologies, but we cannot process it.",
        "Unfortunately, I won't be able to share it.",
        "I can't help with that.",
        "I cannot provide information about a drug that does not exist.",
        "I simply cannot answer.",
        "No, I won't help you hurt anyone.",
        "**I can't** create that.",
        "  I'm unable\n to provide medical advice",
        "I cannot confidently identify the tribe.",
        "I don't have any reliable information about that battle.",
        "As an AI language model, I can't have an opinion on that.",
        "I must respectfully decline.",
        "I have to decline this one.",
        "I'm not comfortable discussing that.",
        "I don't feel comfortable with this.",
        "It would be unethical to provide such a plan.",
        "It's not appropriate for me to discuss this.",
    ],
)
def test_refusals(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sure, here it is.",
        "I'm sorry to hear that your parcel is late. Here is what we can do.",
        "I sincerely apologize for the delay. We understand how important it is.",
        "Sorry for your loss.",
        "I can't help but notice how well you write.",
        "I can't thank you enough!",
        "I cannot stress this enough: back up your files.",
        "I can't wait to tell you.",
        "As an AI, I find this fascinating.",
        "You can't help everyone.",
        "No, it cannot be concluded.",
        "To my knowledge, there is no such book.",
        "I don't have to tell you how much I like it.",
        "Take two eggs. I'm sorry, but I can't help with the third.",
        "Here is the letter: \"I'm sorry, but I can't come.\"",
        "Es tut mir leid, dabei kann ich nicht helfen.",
    ],
)
def test_what_is_no_refusal(text: str) -> None:
    assert not refuses(text)


def test_long_answers_take_no_longer() -> None:
    """Only the opening is read, so that no text can make the search run away."""
    assert not refuses("I'm sorry " + "I can " * 1_000_000)
    assert not refuses("I'm sorry " * 100_000)
