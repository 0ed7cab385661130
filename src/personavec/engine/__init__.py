"""What runs the model when data are screened: this process, or a server for GPUs and clusters."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from pydantic import JsonValue
from torch import Tensor

from personavec.model import ChatModel, Conversation
from personavec.model.checkpoint import Checkpoint
from personavec.model.template import Template

__all__ = ["Engine"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """Reads conversations and answers prompts.

    Attributes:
        model: What it runs; only the built-in engine has the weights at hand.
        template: The model's chat template.
        context_length: Most tokens of prompt and response together.
        identity: What decides answers and readings: `provenance.identity`, and the engine's name unless built in.
        version: The engine's name and version.
        width: How many batches it works on at a time.
    """

    model: ChatModel | Checkpoint
    template: Template
    context_length: int
    identity: Mapping[str, JsonValue]
    version: str
    width: int = 1

    def read(
        self,
        conversations: Sequence[Conversation],
        layers: Sequence[int],
        directions: Tensor | None = None,
    ) -> Tensor:
        """Mean readings of every span.

        Args:
            layers: Layers to read, 0..n_layers.
            directions: (layers, k, d); given, only scalar products with these come back.

        Returns:
            (spans, layers, d) or (spans, layers, k), float32 on the CPU.
        """

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
    ) -> list[list[int]]:
        """Greedy answers to prompts of token ids, without end-of-turn marks."""

    def each(
        self, function: Callable[["Engine", Item], Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result]]:
        """`function(engine, item)` for every item, each with its item, as they get done.

        An engine of many workers runs it on them, so that what goes before and after the model is spread as well.
        """
        for item in items:
            yield item, function(self, item)
