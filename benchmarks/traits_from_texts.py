"""The library's seven traits, their vectors made of the library's texts: what each does by two judges, and what chance does.

    python benchmarks/traits_from_texts.py --runs runs/seven [--write docs/results.md]

Runs `extract --texts library` for every trait (4 to 7 minutes each for the default model; finished ones are read back).
"""

import argparse
from pathlib import Path

from common import show_estimate as show
from common import table
from personavec import UserError, extract_from_texts, load_model, load_trait
from personavec.extraction.given.result import Opinion, TextsRun
from personavec.files import write_atomic
from personavec.traits import library_names


def steering(run: TextsRun, judge: Opinion) -> list[str]:
    """What a judge sees of the pushes."""
    found = judge.steering
    if found is None:
        return [run.trait.name, judge.name, *[""] * 7]
    at = {push.share: push for push in run.pushes}
    scores = [at[share].score.get(judge.name) for share in (-0.25, 0.0, 0.25)]
    strongest = max(map(abs, found.null.effects))
    return [
        run.trait.name, judge.name, f"{show(judge.auc, '.2f')}", *(show(score, ".0f") for score in scores), show(found.effect, "+.0f"),
        show(found.style.remains, "+.0f") if found.style and found.style.remains else "-",
        f"{found.effect_on_null_questions:+.0f} / {strongest:.0f} (n = {found.null.n})",
    ]  # fmt: skip


def reading(run: TextsRun) -> list[str]:
    """How well the vector reads texts that it is not made of."""
    low, high = run.coherent_range
    best = run.recommended_coefficient
    coherence = " / ".join(f"{push.coherence.mean:.0f}" for push in run.pushes)
    return [
        run.trait.name, str(run.layer), show(run.separation.auc, ".2f"), show(run.controls.style_held_equal, ".2f"),
        f"{run.separation.null.shuffled.mean:.2f} / {run.separation.null.shuffled.p95:.2f}", coherence, f"{low:+.2g} to {high:+.2g}",
        "none" if best is None else f"{best:+.2g}",
    ]  # fmt: skip


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/seven"))
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    runs: list[TextsRun] = []
    for name in library_names():
        folder = options.runs / name
        if not (folder / "run.json").exists():
            try:
                extract_from_texts(load_model(), load_trait(name), "library", folder)
            except UserError as error:
                raise SystemExit(f"{name}: {error}") from error
        runs.append(TextsRun.read(folder))
    first = runs[0]
    shares = " / ".join(f"{100 * push.share:+g} %" for push in first.pushes)
    text = "\n\n".join(
        [
            f"# Results: seven traits on {first.model.id}",
            f"Written by `python benchmarks/traits_from_texts.py`; {first.machine.cpu}, {first.machine.cores} cores, {first.machine.device}, "
            f"{first.model.dtype}, {first.written[:10]}, personavec {first.personavec}, transformers {first.versions['transformers']}, seed "
            f"{first.arguments['seed']}. Brackets: 95 % intervals over questions. Figures of the default model before: [default-0.5b](results-default-0.5b.md).",
            "## Does it steer?",
            "Scores (0 to 100) of answers pushed by minus 25 %, nothing and plus 25 % of the residual norm, by a judge that learnt from the "
            "texts' other half and saw no instruction (probe), and by one that asks whether the answer was told to show the trait (contrast). "
            "Style held equal: what remains of the effect with exclamation and question marks, lists, capitals, emoji, sentences and length "
            "held equal. Chance: the effect on 6 of the questions beside the strongest of random directions of equal norm there.",
            table(
                [
                    "trait",
                    "judge",
                    "its AUC on unseen texts",
                    "-25 %",
                    "0",
                    "+25 %",
                    "effect",
                    "style held equal",
                    "on 6 questions / chance",
                ],
                [steering(run, judge) for run in runs for judge in run.judges],
            ),
            "## Does it read, and what does it cost?",
            f"Separation: AUC of unseen texts of both sides along the vector; shuffled: vectors made of sides shuffled within questions, mean and "
            f"95th percentile of 200. Coherence at {shares}.",
            table(
                [
                    "trait",
                    "layer",
                    "separation",
                    "style held equal",
                    "shuffled",
                    "coherence",
                    "coherent coefficients",
                    "recommended",
                ],
                [reading(run) for run in runs],
            ),
        ]
    )
    print(text)
    if options.write:
        notes = (
            options.write.read_text(encoding="utf-8").partition("\n## Reading these tables\n")[2]
            if options.write.exists()
            else ""
        )
        write_atomic(options.write, text + "\n" + (f"\n## Reading these tables\n{notes}" if notes else ""))


if __name__ == "__main__":
    main()
