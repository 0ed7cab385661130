"""The vectors that come with the package: those of the library's traits for the default model, and what is known of them.

    python benchmarks/ready.py --runs FOLDER [--write]

Every trait is extracted from the library's texts into FOLDER/TRAIT (a finished run is read back; some six minutes each on
one core). With --write the vectors, and the figures of their runs, go into the package. `ready_marks.json` says what one
reader saw in each run's eight random examples at plus and minus 25 %: in how many the trait plainly shows.
"""

import argparse
import hashlib
import json
from pathlib import Path

from personavec import extract_from_texts, load_model
from personavec.extraction import TextsRun
from personavec.files import write_atomic, write_json
from personavec.ready import FIGURES, FOLDER, ReadyEffect, ReadyMarks, ReadyVector
from personavec.traits import library_names, load_trait

MARKS = Path(__file__).with_name("ready_marks.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--write", action="store_true", help="put vectors and figures into the package")
    options = parser.parse_args()
    model, found = load_model(), []
    marks = json.loads(MARKS.read_text(encoding="utf-8"))
    for name in library_names():
        folder = options.runs / name
        run = extract_from_texts(model, load_trait(name), "library", folder).run
        content = (folder / "vector.safetensors").read_bytes()
        found.append(ready(run, hashlib.sha256(content).hexdigest(), ReadyMarks(**marks[name])))
        print(f"{name}: {found[-1].word}", flush=True)
        if options.write:
            write_atomic(FOLDER / f"{name}.safetensors", content)
    if options.write:
        write_json(FIGURES, [one.as_json() for one in found])


def ready(run: TextsRun, sha256: str, reader: ReadyMarks) -> ReadyVector:
    """What is told of a vector: its run's figures."""
    effects = {
        judge.name: None
        if (seen := judge.steering) is None
        else ReadyEffect(
            effect=seen.effect,
            on_null_questions=seen.effect_on_null_questions,
            chance=seen.null.max,
            directions=seen.null.n,
        )
        for judge in run.judges
    }
    return ReadyVector(
        trait=run.trait.name,
        model=run.model.id,
        weights=run.model.weights,
        layer=run.layer,
        sha256=sha256,
        auc=run.separation.auc,
        coefficient=next(judge.steering.coefficient for judge in run.judges if judge.steering is not None),
        effects=effects,
        reader=reader,
        coherent_range=run.coherent_range,
        recommended_coefficient=run.recommended_coefficient,
    )


if __name__ == "__main__":
    main()
