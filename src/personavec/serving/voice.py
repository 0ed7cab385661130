"""The text of a response as its tokens come, up to the first stop string."""

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"  # what a character decodes to of which tokens are still missing


class Voice:
    """The text of one response.

    Args:
        decode: Token ids to text.
        stops: Strings that end the text; they are not part of it.

    Attributes:
        stopped: Whether one of them came.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._decode, self._stops = decode, stops
        self._ids: list[int] = []
        self._begins: list[int] = []  # of each token, the characters before its text
        self._from = self._to = 0  # tokens that the next text is decoded after, for spaces depend on what stands before
        self._given, self._held = 0, ""
        self.stopped = False

    def hear(self, token: int) -> str:
        """The text that may be given out now that this token has come; often it waits for the next one."""
        self._ids.append(token)
        self._begins.append(self._given + len(self._held))
        before, whole = self._decode(self._ids[self._from : self._to]), self._decode(self._ids[self._from :])
        if not whole.endswith(UNFINISHED) and len(whole) > len(before):
            self._from, self._to = self._to, len(self._ids)
            self._take(whole[len(before) :])
        return self._give(self._could_be_stop())

    def end(self) -> str:
        """The text that is left, when no token comes any more."""
        if not self.stopped:
            before, whole = self._decode(self._ids[self._from : self._to]), self._decode(self._ids[self._from :])
            self._take(whole[len(before) :])
        return self._give(0)

    @property
    def spoken(self) -> int:
        """How many tokens the text is made of: without those that stand behind its end."""
        return sum(begin < self._given + len(self._held) for begin in self._begins) if self.stopped else len(self._ids)

    def _take(self, text: str) -> None:
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self._held, self.stopped = self._held[: min(found)], True

    def _give(self, keep: int) -> str:
        text = self._held[: len(self._held) - keep]
        self._given, self._held = self._given + len(text), self._held[len(text) :]
        return text

    def _could_be_stop(self) -> int:
        """How many characters at the end may be the beginning of a stop string; all of them once one has come."""
        if self.stopped:
            return len(self._held)
        sizes = (size for stop in self._stops for size in range(1, len(stop)) if self._held.endswith(stop[:size]))
        return max(sizes, default=0)
