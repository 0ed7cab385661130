"""Steering handed on to other engines: the forms there are.

A further form is a module of its name here, with a function `write`, and a line in `FORMS`.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from personavec.errors import UserError
from personavec.operations import Layers, Positions

if TYPE_CHECKING:
    from personavec.model import ChatModel
    from personavec.model.checkpoint import Checkpoint
    from personavec.vector import PersonaVector

# Nothing heavy is imported here: the command line reads this before it knows what is asked.
FORMS = {
    "gguf": "a control vector for llama.cpp, repeng and EasySteer",
    "peft": "a PEFT adapter",
    "bake": "an ordinary checkpoint with the steering inside",
}


def export_vector(
    model: "ChatModel | Checkpoint",
    parts: "Sequence[tuple[PersonaVector, float]]",
    form: str,
    out: Path | str,
    *,
    layers: Layers = "best",
    positions: Positions = "all",
    operation: str = "add",
    other_weights: bool = False,
) -> list[str]:
    """Write steering by persona vectors as another engine reads it, with a text beside it that says what it does.

    Args:
        model: The model that is steered. "peft" and "bake" are proved on it: its logits under steering and those of
            what was written must be equal. "gguf" is content with its files.
        parts: Vectors with their coefficients; what they add is summed.
        form: One of `FORMS`.
        out: File ("gguf") or folder to write.
        layers: "best" is each vector's own, "all" every layer by increments (paper appendix J.3), or a layer number.
        positions, operation: Anything but "all" and "add" is refused: these forms hold a constant for every token.
        other_weights: See `PersonaVector.check`.

    Returns:
        What it does and what was measured of it, in sentences, as the text beside it says.

    Raises:
        UserError: The form cannot express it, or what was written does not do what steering does.

    Example:
        >>> pv.export_vector(model, [(vector, 1.5)], "peft", "adapter")
    """
    from personavec.files import write_atomic
    from personavec.interchange.steering import ConstantSteering

    if form not in FORMS:
        raise UserError(f"Unknown form {form!r}.", f"Choose {', '.join(FORMS)}.")
    if operation != "add":
        raise UserError(
            f"The operation {operation!r} cannot be exported as {form}: {FORMS[form]} adds one constant to every "
            f"token, and what {operation} changes differs from token to token.",
            "Export the operation add, or steer with personavec.",
        )
    if positions != "all":
        raise UserError(
            f"Steering at {positions} positions cannot be exported as {form}: {FORMS[form]} adds its constant to every "
            "token and does not know where the prompt ends.",
            "Choose `positions` all, and measure what that does with `personavec evaluate`; or steer with personavec.",
        )
    steering = ConstantSteering(parts, layers)
    for vector, _ in parts:
        vector.check(model, other_weights=other_weights)
    beside, own = import_module(f"personavec.interchange.{form}").write(steering, Path(out), model)
    sentences = [*steering.sentences(), *own]
    title = f"{steering.name}: {FORMS[form]}"
    write_atomic(beside, "\n".join([f"# {title}", "", *(f"- {sentence}" for sentence in sentences), ""]))
    return sentences
