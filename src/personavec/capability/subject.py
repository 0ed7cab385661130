"""A ChatModel as lm-evaluation-harness takes it: our own batches, so that steering acts on the tokens it is meant for.

The harness's own wrapper of transformers models pads a context and its continuation into one row, in which hooks cannot
tell prompt and response apart.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from personavec.errors import UserError
from personavec.files import JsonLines
from personavec.likelihood import IGNORED, each_sequence, token_logs
from personavec.model import ChatModel, Request
from personavec.model.edits import Intervention
from personavec.progress import progress

MAX_NEW_TOKENS = 256  # of an answer whose task names no limit, as in the harness
PLAIN = {"until", "max_gen_toks", "max_new_tokens", "max_tokens", "do_sample", "temperature", "num_beams", "top_p"}

Scored = tuple[float, bool]  # log-probability of a continuation, and whether it is what greedy decoding gives


class Subject(TemplateLM):
    """The model that is tested.

    Args:
        model: With its adapter, if it has one.
        interventions: Steering of every forward: continuations and answers are the response, what is before them the
            prompt. A whole text (of perplexity tasks) is neither and is steered everywhere.
        log: Answers so far, which are not asked for again.
        name: For the progress bar.
    """

    def __init__(self, model: ChatModel, interventions: Sequence[Intervention], log: JsonLines, name: str) -> None:
        super().__init__()
        self.chat, self.interventions, self.log, self.name = model, interventions, log, name
        self.known: dict[str, Any] = {line["key"]: line["answer"] for line in log}

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        end = self.chat.tokenizer.eos_token_id
        return next(iter(sorted(self.chat.stop_ids))) if end is None else end

    @property
    def prefix_token_id(self) -> int:
        """What a text without context is predicted from."""
        start = self.chat.tokenizer.bos_token_id
        return self.eot_token_id if start is None else start

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; with the tokens that the tokenizer puts around a text, unless told otherwise."""
        return list(self.chat.tokenizer(string, add_special_tokens=add_special_tokens is not False)["input_ids"])

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[Scored]:
        """See the harness."""
        found: list[Scored] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[Scored]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        return self._scored(pairs, everywhere=False)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
        """Log-probability of whole texts, in windows as long as the context."""
        windows, owners = [], []
        for owner, request in enumerate(requests):
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.chat.context_length,
                context_len=1,
            ):
                windows.append(make_disjoint_window(window))
                owners.append(owner)
        sums = [0.0] * len(requests)
        for owner, (log, _) in zip(owners, self._scored(windows, everywhere=True), strict=True):
            sums[owner] += log
        return sums

    def _scored(self, pairs: Sequence[tuple[list[int], list[int]]], everywhere: bool) -> list[Scored]:
        """Log-probability of each continuation. Those that differ in their last token alone share a forward."""
        keys = [_key("score", context, continuation, everywhere) for context, continuation in pairs]
        groups: dict[tuple[int, tuple[int, ...]], dict[int, str]] = {}
        for (context, continuation), key in zip(pairs, keys, strict=True):
            # What is too long loses its beginning.
            row = tuple([*context, *continuation][-(self.chat.context_length + 1) : -1])
            start = len(row) + 1 - len(continuation)
            if not (continuation and start > 0):
                raise UserError(
                    f"A task asks for the likelihood of {len(continuation)} tokens in a context of "
                    f"{self.chat.context_length}.",
                    "Choose another task.",
                )
            if key not in self.known:
                groups.setdefault((start, row), {})[continuation[-1]] = key
        todo = list(groups)
        labels = [[IGNORED] * start + list(row[start:]) + [0] for start, row in todo]  # 0: a last token

        def use(at: int, states: Tensor) -> None:
            start, row = todo[at]
            finals = groups[start, row]
            logs, greedy = token_logs(self.chat, states[:-1], row[start:]) if len(states) > 1 else _NOTHING
            last, likeliest = token_logs(self.chat, states[-1:].expand(len(finals), -1), list(finals))
            answers = [
                (float(logs.sum() + log), bool(greedy.all() and best))
                for log, best in zip(last, likeliest, strict=True)
            ]
            self._keep(dict(zip(finals.values(), answers, strict=True)))

        starts = None if everywhere else [start for start, _ in todo]
        rows = [row for _, row in todo]
        if todo:
            each_sequence(self.chat, rows, labels, use, self.interventions, starts, name=self.name, unit="requests")
        return [(log, best) for log, best in (self.known[key] for key in keys)]

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Answers, cut before the first of the task's stop sequences."""
        keys, todo = [], {}
        for number, request in enumerate(requests):
            text, options = request.args
            length = int(next((options[k] for k in ("max_gen_toks", "max_new_tokens") if k in options), MAX_NEW_TOKENS))
            heat = float(options.get("temperature") or 0) if options.get("do_sample") else 0.0
            if strange := self._strange(options, heat):
                raise UserError(
                    f"The task asks for answers generated with {', '.join(strange)}, which is not supported.",
                    "Choose another task, or one of your own that includes it and sets generation_kwargs.",
                )
            prompt = self.tok_encode(text)[-max(1, self.chat.context_length - length) :]
            # Repeats of one prompt are drawn each for itself.
            keys.append(_key("write", prompt, length, heat, number if heat else 0))
            if keys[-1] not in self.known:
                todo[keys[-1]] = Request(prompt, length, heat, number, self.interventions)
        names = list(todo)
        if todo:
            with progress(self.name, total=len(todo), unit="answers", together=self.chat.places) as job:

                def finished(at: int, response: Any) -> None:
                    self._keep({names[at]: self.chat.decode(response.ids)})
                    job.advance()

                self.chat.generate(list(todo.values()), finished)
        return [
            _until(self.known[key], request.args[1].get("until")) for key, request in zip(keys, requests, strict=True)
        ]

    @staticmethod
    def _strange(options: Mapping[str, Any], heat: float) -> list[str]:
        """Options that would change the answers and are not ours."""
        neutral = {"num_beams": (None, 1), "top_p": (None, 1)} if heat else {"num_beams": (None, 1)}
        unknown = [name for name in options if name not in PLAIN]
        return unknown + [name for name, values in neutral.items() if options.get(name) not in values]

    def _keep(self, answers: Mapping[str, Any]) -> None:
        self.known |= answers
        self.log.append(*({"key": key, "answer": answer} for key, answer in answers.items()))


_NOTHING = (torch.zeros(1), torch.ones(1, dtype=torch.bool))


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _until(text: str, stops: str | Sequence[str] | None) -> str:
    for stop in [stops] if isinstance(stops, str) else stops or ():
        if stop:
            text = text.partition(stop)[0]
    return text
