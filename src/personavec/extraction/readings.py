"""What the residual stream was while the model answered, as means over parts of each rollout."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from personavec.model import ChatModel, Conversation
from personavec.readout import read
from personavec.rollouts import Rollout, conversation


@dataclass(frozen=True)
class RolloutReadings:
    """Readings of n rollouts at every layer, each (n, n_layers + 1, d).

    Attributes:
        prompt_mean: Mean over the prompt.
        prompt_last: At the last token of the prompt.
        response_mean: Mean over the response, without thoughts.
    """

    prompt_mean: Tensor
    prompt_last: Tensor
    response_mean: Tensor

    @classmethod
    def of(
        cls, model: ChatModel, rollouts: Sequence[Rollout], advance: Callable[[int], None] | None = None
    ) -> "RolloutReadings":
        """Read rollouts; each must have a response."""
        means = read(model, [conversation(model, r) for r in rollouts], advance=advance).means
        return cls(*means.view(len(rollouts), 3, model.n_layers + 1, -1).unbind(1))

    def where(self, chosen: Sequence[bool]) -> "RolloutReadings":
        """Those of the rollouts for which `chosen` says so."""
        mask = torch.tensor(chosen, dtype=torch.bool)
        return RolloutReadings(self.prompt_mean[mask], self.prompt_last[mask], self.response_mean[mask])

    def split(self, *counts: int) -> "list[RolloutReadings]":
        """Those of the first rollouts, of the next, ...: as many each as `counts` say."""
        ends = list(accumulate(counts))
        spans = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
        return [RolloutReadings(self.prompt_mean[s], self.prompt_last[s], self.response_mean[s]) for s in spans]

    def joined(self, other: "RolloutReadings") -> "RolloutReadings":
        """These and others."""
        return RolloutReadings(
            torch.cat([self.prompt_mean, other.prompt_mean]),
            torch.cat([self.prompt_last, other.prompt_last]),
            torch.cat([self.response_mean, other.response_mean]),
        )


def token_projections(model: ChatModel, rollouts: Sequence[Rollout], directions: Tensor) -> Tensor:
    """Projections (tokens, n_layers + 1) of the single tokens of all responses on a direction per layer.

    Args:
        directions: (n_layers + 1, d); their length does not count.
    """
    conversations = []
    for rollout in rollouts:
        whole = conversation(model, rollout)
        start, end = whole.spans[-1]
        conversations.append(Conversation(whole.ids, [(token, token + 1) for token in range(start, end)]))
    units = torch.nn.functional.normalize(directions, dim=-1)[:, None]
    # A span is a token: few at a time, for each is a row of its own at every layer.
    return read(model, conversations, directions=units, batch_tokens=1024).means[..., 0]
