"""What the tests of serving share: jobs run to their end, and a model whose answers come back when tokenised again."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from personavec.model import ChatModel
from personavec.serving.engine import Begun, DrawnToken, Ended, Event, Failed, Job, Piece, StepLoop
from personavec.serving.readings import Reading
from personavec.vector import PersonaVector
from tiny import causal_model, qwen2, tokenizer, vector


@dataclass(eq=False)
class Heard:
    """All that was told of a job, by choice."""

    events: list[Event] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    left: int = 1
    told: Callable[[Event], None] = lambda event: None

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.left -= isinstance(event, Ended)
        if self.left == 0 or isinstance(event, Failed):
            self.over.set()
        self.told(event)

    def wait(self) -> "Heard":
        assert self.over.wait(60), "the job never ends"
        return self

    def tokens(self, choice: int = 0) -> list[DrawnToken]:
        return [t for e in self.events if isinstance(e, Piece) and e.choice == choice for t in e.tokens]

    def ids(self, choice: int = 0) -> list[int]:
        return [token.id for token in self.tokens(choice)]

    def text(self, choice: int = 0) -> str:
        return "".join(e.text for e in self.events if isinstance(e, Piece) and e.choice == choice)

    def ended(self, choice: int = 0) -> Ended:
        [end] = [e for e in self.events if isinstance(e, Ended) and e.choice == choice]
        return end

    @property
    def prompt(self) -> Reading | None:
        [begun] = [e for e in self.events if isinstance(e, Begun)]
        return begun.reading

    @property
    def error(self) -> Exception | None:
        return next((e.error for e in self.events if isinstance(e, Failed)), None)


def submit(loop: StepLoop, prompt: Sequence[int], count: int, **options: Any) -> tuple[Job, Heard]:
    heard = Heard(left=options.get("n", 1))
    job = Job(prompt, heard, count, **options)
    loop.submit(job)
    return job, heard


def digits_model() -> ChatModel:
    """Answers with digits alone, which no merge joins: what it writes is tokenised as it was written."""
    model = causal_model(qwen2(), 3)
    text = tokenizer()
    digits = [text.convert_tokens_to_ids(str(i)) for i in range(10)]
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        kept = head[digits].clone()
        head.zero_()
        head[digits] = 3 * kept
    return ChatModel(model, text, "digits")


def personas(model: ChatModel) -> list[PersonaVector]:
    """Two vectors at different layers, one of them with neutral statistics."""
    from dataclasses import replace

    rows = model.n_layers + 1
    statistics = {
        f"neutral_{of}{what}": torch.full((rows,), value)
        for of in ("", "prompt_", "token_")
        for what, value in (("mean", 0.1), ("deviation", 0.5))
    }
    return [
        replace(vector(model, seed=1, layer=2, **statistics), trait="evil"),
        replace(vector(model, seed=2, layer=3), trait="humorous"),
    ]
