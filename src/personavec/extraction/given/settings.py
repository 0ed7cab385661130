"""What decides the result of an extraction from given texts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_doc import Doc

from personavec.errors import UserError
from personavec.texts.length import TOKENS

if TYPE_CHECKING:
    from personavec.model import ChatModel


@dataclass(frozen=True)
class TextSettings:
    """What decides the result of an extraction from given texts, besides the texts, the trait and the model.

    Raises:
        UserError: Naming the field and what it may be.
    """

    layer: Annotated[Literal["auto"] | int, Doc("auto, or a layer number.")] = "auto"  # auto: by left-out questions
    tokens: Annotated[int, Doc("First tokens of each given text that are read.")] = TOKENS
    max_new_tokens: Annotated[int, Doc("Longest steered answer.")] = 48
    random_directions: Annotated[int, Doc("Random directions that are steered by as the null.")] = 3
    seed: Annotated[int, Doc("Seed of everything random.")] = 0

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("max_new_tokens", 1), ("random_directions", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"`{name}` {getattr(self, name)} is out of range.", f"Choose {least} or more.")

    def check(self, model: "ChatModel") -> None:
        """Refuse what does not fit the model.

        Raises:
            UserError: Naming the field and what it may be.
        """
        if self.layer != "auto" and not (isinstance(self.layer, int) and 1 <= self.layer <= model.n_layers):
            raise UserError(f"`layer` {self.layer} is out of range.", f"Choose auto, or 1 to {model.n_layers}.")
