"""What a fine-tune did, from two checkpoints on the disk: one model in memory at a time, one run folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import JsonValue

from personavec.errors import UserError
from personavec.files import RunFolder
from personavec.model import ChatModel, load_model
from personavec.model.load import find_adapter, find_source
from personavec.provenance import identity, provenance
from personavec.shifts.measure import check_traits, compare, prompt_readings, template_notes
from personavec.shifts.page import write_shift_report
from personavec.shifts.result import ShiftRun, SystemPrompt
from personavec.shifts.verdict import verdict
from personavec.vector import PersonaVector, reading_sides, two_directions


def run_shift(
    base: str,
    tuned: str | None,
    vectors: Sequence[Path],
    out: Path,
    *,
    adapter: str | None = None,
    systems: Sequence[str] = (),
    other_weights: bool = False,
    seed: int = 0,
    dtype: str | None = None,
    device: str | None = None,
    load: Callable[..., ChatModel] = load_model,
) -> ShiftRun:
    """Read the model before, then the model after, and compare: `compare` of what `prompt_readings` reads.

    Args:
        base: The model before, by a name that `load_model` takes.
        tuned, adapter: The model after, or a PEFT adapter on the model before: one of the two.
        vectors: Files of vectors of the model before.
        out: Run folder: run.json and report.html go there.
        systems: System prompts under which the shift is measured too.
        other_weights: See `PersonaVector.check`.
        load: Opens the models, `load(name, device=, dtype=, adapter=)`.

    Raises:
        UserError: Neither or both of `tuned` and `adapter`, models or vectors that do not fit, a folder of another run.
    """
    _check_after(tuned, adapter)
    given = [PersonaVector.load(path) for path in vectors]
    loaded = reading_sides(given)
    check_traits(loaded)
    prompts = list(dict.fromkeys(systems))
    arguments: dict[str, JsonValue] = {
        "base": base, "tuned": tuned, "adapter": adapter, "vectors": [str(path) for path in vectors],
        "systems": [*prompts], "other_weights": other_weights, "dtype": dtype, "seed": seed,
    }  # fmt: skip
    with RunFolder(out, arguments) as folder:
        first = load(base, device=device, dtype=dtype)
        for vector in loaded:
            vector.check(first, other_weights=other_weights)
        before = prompt_readings(first, loaded, prompts)
        facts, template = provenance(first, arguments), first.template
        del first  # only one model is in memory
        second = load(tuned or base, device=device, dtype=dtype, adapter=adapter)
        traits = compare(loaded, before, prompt_readings(second, loaded, prompts, template), seed)
        run = ShiftRun.of(
            facts,
            tuned=tuned or adapter,
            tuned_identity=identity(second),
            systems=tuple(SystemPrompt(system=text) for text in prompts),
            traits=traits,
            verdict=tuple(verdict(traits)),
            warnings=(*template_notes(template, second.template), *two_directions(given)),
        )
        write_shift_report(run, folder / "report.html")
        run.write(folder.path)
    return run


def _check_after(tuned: str | None, adapter: str | None) -> None:
    """Now, and not after the model before was loaded and read."""
    if (tuned is None) == (adapter is None):
        raise UserError("Two models are compared.", "Name the tuned model, or its adapter with `adapter`, not both.")
    if tuned is not None:
        find_source(tuned)
    if adapter is not None:
        find_adapter(adapter)
