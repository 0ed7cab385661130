"""Prompts whose keys and values are kept, so that others which begin like one are read from where they differ."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import DynamicCache

from personavec.model.places import first_tokens

COUNT = 8  # prompts that are kept


@dataclass(frozen=True)
class _Prefix:
    """Keys and values of token ids, for requests of this kind alone."""

    kind: tuple[str, ...]
    ids: Sequence[int]
    cache: DynamicCache


class Prefixes:
    """The beginnings of prompts that were of use last.

    Each is of a kind, and only prompts of the same kind begin with it: the kind names the client, who else could find
    out by the clock what others ask, and the fingerprints of the interventions that act on prompts, under others of
    which keys and values are others.

    Args:
        most: Tokens that they may hold together.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: list[_Prefix] = []  # the one that was used last comes last

    def known(self, kind: tuple[str, ...], ids: Sequence[int]) -> tuple[DynamicCache, int]:
        """Keys and values of as much of a prompt's beginning as is kept, in a cache of its own, and how many tokens."""
        best, most = None, 0
        for prefix in self._kept:
            if prefix.kind == kind and (common := _common(prefix.ids, ids)) > most:
                best, most = prefix, common
        if best is None:
            return DynamicCache(), 0
        self._kept.remove(best)
        self._kept.append(best)
        return first_tokens(best.cache, most), most

    def keep(self, kind: tuple[str, ...], ids: Sequence[int], cache: DynamicCache) -> None:
        """Keep a prompt in place of those that it begins with, and of the ones that were not used for longest."""
        others = [one for one in self._kept if one.kind != kind or _common(one.ids, ids) < len(one.ids)]
        self._kept = [*others[-COUNT + 1 :], _Prefix(kind, ids, cache)]
        while sum(len(one.ids) for one in self._kept) > self.most:
            self._kept.pop(0)

    def clear(self) -> None:
        """Forget them."""
        self._kept = []


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin alike with."""
    return next((i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))
