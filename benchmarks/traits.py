"""The seven traits of the paper on one model: a table of what their vectors do, and of what chance and other traits do.

    python benchmarks/traits.py --runs runs/seven [--model default-1.5b] [--write docs/results-default-0.5b.md]

Runs `extract` for every trait of the library (minutes each for the default model; finished ones are read back), once more
so that each is compared with all the others, and checks one vector against the plain way of computing it.
"""

import argparse
from pathlib import Path

import torch

from common import table
from personavec import ChatModel, PersonaVector, UserError, extract, load_model, load_trait
from personavec.extraction.result import ExtractionRun
from personavec.extraction.specificity import matrix
from personavec.files import write_atomic
from personavec.readout import read
from personavec.rollouts import Rollout, conversation, read_rollouts
from personavec.traits import library_names


def agreement(model_name: str | None, folder: Path) -> str:
    """Cosine between our vector and the plain way's, both in float32 from the same kept rollouts."""
    model = load_model(model_name, dtype="float32")
    kept = [r for r in read_rollouts(folder / "rollouts.jsonl") if r.stage == "extraction" and r.kept]
    ours = read(model, [conversation(model, r) for r in kept]).means.view(len(kept), 3, model.n_layers + 1, -1)[:, 2]
    plain = torch.stack([plainly(model, r) for r in kept])
    positive = torch.tensor([r.side == "positive" for r in kept])
    pair = [x[positive].mean(0) - x[~positive].mean(0) for x in (ours, plain)]
    # transformers' last hidden state is taken after the final norm: not the last block's output.
    cosines = torch.cosine_similarity(pair[0][:-1], pair[1][:-1], dim=-1)
    return (
        f"The vector of {folder.name} and the one computed the plain way from the same {len(kept)} kept rollouts (one by one, "
        f"`output_hidden_states`, float32) agree at every layer from 0 to {model.n_layers - 1}: lowest cosine "
        f"{float(cosines.min()):.7f}."
    )


@torch.no_grad()
def plainly(model: ChatModel, rollout: Rollout) -> torch.Tensor:
    """Mean response reading (layers + 1, d) from one full forward of one rollout."""
    ids = torch.tensor([[*rollout.prompt_ids, *rollout.response_ids]], device=model.device)
    states = model.model(input_ids=ids, output_hidden_states=True).hidden_states
    return torch.stack(states)[:, 0, len(rollout.prompt_ids) :].float().mean(1)


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/seven"))
    parser.add_argument("--model")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    model = load_model(options.model)
    runs: dict[str, ExtractionRun] = {}
    failures: dict[str, str] = {}
    for name in library_names():
        try:
            runs[name] = extract(model, load_trait(name), options.runs / name).run
        except UserError as error:
            failures[name] = error.problem.partition(" Examples:")[0]
    for name in runs:  # again, now that all the others are there to be compared with
        runs[name] = extract(model, load_trait(name), options.runs / name).run
    vectors = [PersonaVector.load(options.runs / name / "vector.safetensors") for name in runs]
    text = report(runs, failures, vectors)
    if "humorous" in runs:
        text += "\n\n## Agreement with the plain way\n\n" + agreement(options.model, options.runs / "humorous")
    print(text)
    if options.write:
        write_atomic(options.write, text + "\n")


def report(
    runs: dict[str, ExtractionRun],
    failures: dict[str, str],
    vectors: list[PersonaVector],
) -> str:
    """The tables as Markdown."""
    first = next(iter(runs.values()))
    machine = first.machine
    coefficients = [f"{p.coefficient:+g}" for p in first.dose_response]
    main_rows, null_rows = [], []
    for name, run in runs.items():
        r = run.rollouts
        main_rows.append(
            [
                name, f"{r.kept} of {r.extraction}", f"{run.judge.auc:.2f}", str(run.layer),
                *(f"{p.score:.0f}" for p in run.dose_response), f"{run.spearman:.2f}",
                " / ".join(f"{p.coherence.mean:.0f}" for p in run.dose_response),
            ]
        )  # fmt: skip
        null, separation = run.steering.null, run.separation
        null_rows.append(
            [
                name, f"{run.steering.effect:.0f}", f"{run.steering.effect_on_null_questions:.0f}",
                f"{null.mean:.0f} / {null.max:.0f} (n = {null.n})", f"{null.p:.2f}", f"{separation.auc:.2f}",
                *(f"{one.mean:.2f} / {one.p95:.2f}" for one in (separation.null.isotropic, separation.null.shuffled)),
            ]
        )  # fmt: skip
    grid = matrix(vectors)
    names = grid.vectors
    effects = [
        [
            name,
            *(
                "-" if effect is None else ("**{}**" if name == other else "{}").format(f"{effect:.0f}")
                for other, effect in zip(names, row, strict=True)
            ),
        ]
        for name, row in zip(names, grid.effect, strict=True)
    ]
    cosines = [[name, *(f"{c:+.2f}" for c in row)] for name, row in zip(names, grid.cosine, strict=True)]
    sections = [
        f"# Results: seven traits on {first.model.id}",
        f"Written by `python benchmarks/traits.py`; {machine.cpu}, {machine.cores} cores, {machine.device}, "
        f"{first.model.dtype}, {first.written[:10]}, personavec {first.personavec}, transformers "
        f"{first.versions['transformers']}, seed {first.arguments['seed']}. Brackets: 95 % intervals, bootstrapped over "
        f"the 20 evaluation questions. The judge is the contrast judge, so scores are relative to what the model does when "
        f"told to (10 and 90 are the means under opposite and positive instructions where these are well apart).",
        "## What the vectors do",
        table(
            ["trait", "rollouts kept", "judge AUC, unseen questions", "layer", *(f"score at {c}" for c in coefficients),
             "Spearman's rho", f"coherence at {' / '.join(coefficients)}"],
            main_rows,
        ),
        "## What chance does",
        "Steering effect: score at plus minus score at minus the largest coefficient. Null effects: absolute effects of random "
        "directions of equal norm with the rollouts' covariance, each at the layer it chose on extraction questions as the "
        "vector did, on the first 6 evaluation questions; the vector's own effect on these is beside them, and p, the share "
        "of directions at least as strong (the vector counted among them). Separation: AUC of projections on unseen questions and an unseen "
        "instruction; 200 random directions of each kind choose their own best layer and sign.",
        table(
            ["vector", "effect", "effect on the null's questions", "random directions: mean / largest", "p", "separation AUC",
             "isotropic null: mean / 95th percentile", "shuffled null: mean / 95th percentile"],
            null_rows,
        ),
        "## Effects on other traits' scores",
        "Rows: the vector that is steered by. Columns: whose judge scores the answers. Score at plus minus score at minus the "
        "largest coefficient; off the diagonal n = 8 questions.",
        table(["vector \\ score", *names], effects),
        "## Cosines between the vectors",
        "At the layer of the vector in the row.",
        table(["vector \\ vector", *names], cosines),
    ]  # fmt: skip
    if failures:
        sections += ["## Traits without a vector", *(f"- **{name}**: {why}" for name, why in failures.items())]
    return "\n\n".join(sections)


if __name__ == "__main__":
    main()
