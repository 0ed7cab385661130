"""Does preventative steering keep a trait from being learned, and does `auto` choose a good coefficient?

    python benchmarks/prevention.py VECTOR [--model NAME] [--runs DIR] [--samples 256] [--coefficients 0.5 1 2 3 5]
        [--methods ablate prompt interleave] [--learning-rate 1e-4] [--epochs 1] [--write]

The data are the model's own answers under the trait's positive instructions to the extraction questions, those that the
vector's judge scores above 50. The model is fine-tuned on them without prevention, under several coefficients, under the
one that `auto` chooses, and by rivals; every adapter answers the evaluation questions. Finished parts of DIR are read back.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import RESULTS
from personavec import ChatModel, PersonaVector, Training, Tuned, evaluate, fine_tune, load_model
from personavec.files import JsonLines, write_atomic
from personavec.rollouts import Rollout, generate, plan
from personavec.specificity import judge_of
from personavec.traits.of_vector import trait_of

ABOVE = 50.0  # score from which an answer shows the trait


def trait_answers(model: ChatModel, vector: PersonaVector, folder: Path, count: int, tokens: int) -> Path:
    """A file of conversations in which the assistant shows the trait; made once."""
    path = folder / "data.jsonl"
    if path.exists():
        return path
    trait, judge = trait_of(vector), judge_of(model, vector)
    log = JsonLines(folder / "generated.jsonl")
    kept: list[Rollout] = []
    number = 0
    while len(kept) < count and number < 100:
        made: list[Rollout] = []
        for pair in range(len(trait.instructions)):
            made += plan(
                model, "extraction", trait.extraction_questions, system=trait.system_prompts(pair)[0],
                number=number, pair=pair, side="positive",
            )  # fmt: skip
        generate(model, made, log, description="Answers that show the trait", max_new_tokens=tokens)
        judge.score(made)
        kept += [r for r in made if r.score is not None and r.score > ABOVE]
        number += 1
    lines = [
        {"messages": [{"role": "user", "content": r.question}, {"role": "assistant", "content": r.text}]}
        for r in kept[:count]
    ]
    write_atomic(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def arms(coefficients: Sequence[float], methods: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """Name of every way to train, with its method and coefficient."""
    ways: dict[str, tuple[str, Any]] = {"none": ("none", None)}
    ways |= {f"steer {value:g}": ("steer", value) for value in coefficients}
    ways["steer auto"] = ("steer", "auto")
    return ways | {name: (name, None) for name in methods}


def row(name: str, tuned: Tuned | None, scored: dict[str, Any], base: dict[str, Any], trait: str) -> list[str]:
    """One line of the table; without a fine-tune the model as it came."""

    def cell(e: dict[str, Any], digits: int) -> str:
        return f"{e['mean']:.{digits}f} [{e['low']:.{digits}f}, {e['high']:.{digits}f}]"

    change = f"{scored['score']['mean'] - base['score']['mean']:+.1f}"
    if tuned is None:
        return [name, "", "", "", cell(scored["score"], 1), "", cell(scored["coherence"], 1), ""]
    coefficient = tuned.coefficients.get(trait)
    loss, shift = tuned.run["held_out_loss"], tuned.run["shift"]
    return [
        name,
        "" if coefficient is None else f"{coefficient:g}",
        "" if loss is None else cell(loss["after"], 3),
        f"{shift[-1][trait]:+.3f}" if shift else "",
        cell(scored["score"], 1),
        change,
        cell(scored["coherence"], 1),
        f"{tuned.seconds:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vector", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--runs", type=Path, default=Path("runs/prevention"))
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--coefficients", type=float, nargs="*", default=[0.5, 1.0, 2.0, 3.0, 5.0])
    parser.add_argument("--methods", nargs="*", default=["ablate", "prompt", "interleave"])
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--write", action="store_true", help="store the table under benchmarks/results")
    options = parser.parse_args()
    vector = PersonaVector.load(options.vector)
    trait = trait_of(vector)
    folder = options.runs / vector.trait
    model = load_model(options.model)
    vector.check(model)
    data = trait_answers(model, vector, folder, options.samples, options.tokens)
    base = evaluate(model, trait, folder / "base", vectors=[vector], max_new_tokens=options.tokens)
    rows = [row("before training", None, base, base, vector.trait)]
    chosen = None
    for name, (method, coefficient) in arms(options.coefficients, options.methods).items():
        settings: Any = {"method": method, "learning_rate": options.learning_rate, "epochs": options.epochs}
        bare = method in ("none", "interleave")
        out = folder / name.replace(" ", "-")
        tuned = fine_tune(
            model, data, out, Training(**settings, rank=options.rank, accumulate=4, warmup_steps=2),
            prevent=[] if bare else [(vector, coefficient)], watch=[vector] if bare else [],
            measure=False,
        )  # fmt: skip
        adapted = load_model(options.model, adapter=str(tuned.adapter))
        scored = evaluate(adapted, trait, out / "scored", vectors=[vector], max_new_tokens=options.tokens)
        rows.append(row(name, tuned, scored, base, vector.trait))
        if coefficient == "auto":
            chosen = tuned.run["prevented"][0]["auto"]["projection_difference"]
        print(" | ".join(rows[-1]), flush=True)
    delta = "" if chosen is None else f"{chosen['mean']:.2f} [{chosen['low']:.2f}, {chosen['high']:.2f}]"
    notes = [
        f"{model.id}, {vector.trait}, layer {vector.layer}, |v| {float(vector.at(vector.layer).norm()):.2f}; "
        f"{tuned.run['trained']} samples, learning rate {options.learning_rate:g}, {options.epochs:g} epochs, 8 "
        f"sequences a step, rsLoRA rank {options.rank}.",
        f"auto: the data's projection difference {delta} over |v|.",
        "Held-out loss in nats per token on samples of the data, without prevention; shift of the last prompt token's "
        "projection; scores 0..100 with 95 % intervals over the evaluation questions, without prevention.",
    ]
    header = ["training", "coefficient", "held-out loss", "shift", "trait score", "change", "coherence", "seconds"]
    lines = [
        f"# Fine-tuning on answers that are {vector.trait}, with and without prevention",
        "",
        *("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows]),
        "",
        *(f"- {note}" for note in notes),
        "",
    ]
    print("\n".join(lines))
    if options.write:
        write_atomic(RESULTS / f"prevention-{vector.trait}.md", "\n".join(lines))


if __name__ == "__main__":
    main()
