"""What a model reads in answers that were given to it, without any instruction."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from personavec.errors import UserError
from personavec.model import ChatModel, Conversation
from personavec.readout import read
from personavec.texts.length import TOKENS


def read_answers(
    model: ChatModel,
    questions: Sequence[str],
    answers: Sequence[str | Sequence[int]],
    layers: Sequence[int] | None = None,
    *,
    tokens: int = TOKENS,
    advance: Callable[[int], None] | None = None,
) -> Tensor:
    """Mean readings (n, layers, d) of the first tokens of answers, teacher-forced after their questions alone.

    Args:
        answers: Texts, or the tokens of answers without thoughts.
        layers: 0..n_layers; None: all.

    Raises:
        UserError: An answer is empty.
    """
    conversations = []
    for question, answer in zip(questions, answers, strict=True):
        prompt = model.prompt_ids([{"role": "user", "content": question}])
        ids = (model.template.answer_ids(answer) if isinstance(answer, str) else list(answer))[:tokens]
        if not ids:
            raise UserError(f"An answer to {question!r} is empty.", "Leave it out.")
        conversations.append(Conversation([*prompt, *ids], [(len(prompt), len(prompt) + len(ids))]))
    if not conversations:
        return torch.empty(0, model.n_layers + 1 if layers is None else len(layers), model.hidden_size)
    return read(model, conversations, layers=layers, advance=advance).means
