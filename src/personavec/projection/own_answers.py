"""The model's own greedy answers, kept on disk by prompt: runs and traits share them."""

import hashlib
import json
from array import array
from collections.abc import Sequence
from functools import cached_property

from filelock import FileLock

from personavec.cache import folder_in_cache
from personavec.engine import Engine
from personavec.files import JsonLines


class OwnAnswers:
    """Greedy answers of one model.

    On disk: `answers/HASH.jsonl` in the cache folder, one answer a line, keyed by the prompt's token ids. Several
    processes may share it.

    Args:
        engine: Writes the answers that are not there yet.
        max_new_tokens: Longest answer.

    Attributes:
        made: How many answers were generated, not read from the cache.
    """

    def __init__(self, engine: Engine, max_new_tokens: int) -> None:
        self.engine, self.max_new_tokens, self.made = engine, max_new_tokens, 0
        identity = json.dumps([engine.identity, max_new_tokens], sort_keys=True)
        name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._lines = JsonLines(folder_in_cache("answers") / f"{name}.jsonl")
        self._alone = FileLock(self._lines.path.with_suffix(".lock"))

    @cached_property
    def _known(self) -> dict[str, "array[int]"]:
        """Answers by key, read when the first is asked for; as a list one takes eight times as much."""
        with self._alone:
            return {record["key"]: array("I", record["ids"]) for record in self._lines}

    def __call__(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The answers to prompts of token ids, without end-of-turn marks."""
        keys = [hashlib.sha256(json.dumps(list(prompt)).encode()).hexdigest()[:32] for prompt in prompts]
        missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._known}
        if missing:
            answers = self.engine.answer(list(missing.values()), self.max_new_tokens)
            records = [{"key": key, "ids": list(ids)} for key, ids in zip(missing, answers, strict=True)]
            with self._alone:
                self._lines.append(*records)
            self._known.update({key: array("I", ids) for key, ids in zip(missing, answers, strict=True)})
            self.made += len(records)
        return [self._known[key].tolist() for key in keys]
