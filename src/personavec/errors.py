"""The one exception a user is meant to read, and what settings are refused for."""

from collections.abc import Collection


class UserError(Exception):
    """A mistake the user can mend: what is wrong, and what to do next.

    The command line prints both sentences and ends with exit code 2, without a traceback.
    """

    def __init__(self, problem: str, advice: str = "") -> None:
        super().__init__(f"{problem} {advice}".strip())
        self.problem = problem
        self.advice = advice


def check_words(settings: object, **allowed: Collection[str]) -> None:
    """Refuse settings with a field that is none of the words it may be.

    Raises:
        UserError: Naming the first.
    """
    for name, words in allowed.items():
        word = getattr(settings, name)
        if word not in words:
            raise UserError(f"`{name}` {word!r} is not understood.", f"Choose {', '.join(words)}.")


def check_least(settings: object, **least: int) -> None:
    """Refuse settings with a field below the least that it may be.

    Raises:
        UserError: Naming the first.
    """
    for name, low in least.items():
        value = getattr(settings, name)
        if value < low:
            raise UserError(f"`{name}` {value} is out of range.", f"Choose {low} or more.")
