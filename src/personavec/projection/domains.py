"""The bank of clean domains: ordinary chats of many subjects and registers, none of which shows a trait.

Data of two domains differ in far more than character, and a direction that was made from a few texts carries some of
that. What the domains' mean readings span can be taken out of it.
"""

from pathlib import Path

from personavec.data import Dataset, open_data

_FOLDER = Path(__file__).parent / "domains"


def load_domains() -> dict[str, Dataset]:
    """The domains that come with personavec, by name.

    Each has forty short chats, `assistant` eighty: a model's usual answers.
    """
    return {path.stem: open_data(path) for path in sorted(_FOLDER.glob("*.jsonl"))}
