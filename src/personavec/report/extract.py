"""The report of an extraction."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from personavec.report import figures
from personavec.report.page import Figure, Section, interval, number, provenance, write_page


def write(run: dict[str, Any], path: Path | str) -> None:
    """Write report.html from the content of run.json."""
    name, layer = run["trait"]["name"], run["layer"]
    kept = run["rollouts"]
    reasons = "; ".join(f"{count} × {reason}" for reason, count in kept["reasons"].items()) or "none"
    sections = [
        Section(
            "What the vector does",
            "The model answers questions that played no part in making the vector, while a multiple of the vector is "
            "added "
            "to its residual stream.",
            figures=[
                _figure(
                    "Dose-response", figures.dose_response(run),
                    "Left to right: more of the vector. The solid line is how strongly the answers show the trait, "
                    "the dashed "
                    "one how coherent they are; bands are 95 % intervals over questions. Shaded: where answers stay "
                    "coherent.",
                ),
                _figure(
                    "Against chance", figures.steering_null(run),
                    "How far the score moves between plus and minus the largest coefficient. The further this vector "
                    "lies "
                    "from the dots, which are random directions of the same length, the less it can be chance.",
                ),
            ],
            headings=("coefficient", "share of residual norm", "trait score [95 %]", "coherence [95 %]", "questions"),
            rows=[
                [
                    f"{p['coefficient']:+g}", f"{p['share']:+.2f}", interval(p["score"]), interval(p["coherence"]),
                    str(p["score"]["n"]),
                ]
                for p in run["dose_response"]
            ],
        ),
        Section(
            "Answers side by side", "Typical ones: those whose score moves by nearest to the median.",
            examples=_examples(run),
        ),
        Section(
            "How the layer was chosen",
            figures=[
                _figure(
                    "Steering at several layers", figures.layer_sweep(run),
                    f"On extraction questions, n = {run['layer_sweep'][0]['score']['n']} each. The layer with the "
                    "widest gap "
                    f"between the solid lines whose dotted lines stay high is chosen: {layer}.",
                ),
                _figure(
                    "Telling the sides apart", figures.separation(run),
                    f"How well projections separate {name} answers from their opposite on unseen questions, by layer "
                    "(0.5 is guessing). The bands are what random directions reach that may choose their best layer.",
                ),
            ],
        ),
        Section(
            "What it was made from",
            f"{kept['kept']} of {kept['extraction']} rollouts were kept. Pairs left out: {reasons}. Judge: "
            f"{run['judge']['name']}, AUC on unseen questions {interval(run['judge']['auc'], 2)}, "
            f"n = {run['judge']['auc']['n']} questions.",
            figures=[
                _figure(
                    "Scores of the rollouts", figures.score_distributions(run),
                    "Outlines: every rollout; filled: those kept. A pair is kept when the positive one lies right of "
                    "the line "
                    "and the negative one left of it, and both are coherent.",
                ),
                _figure(
                    "Projections", figures.projections(run),
                    "Where answers to unseen questions lie along the vector, and where the model's plain answers lie.",
                ),
            ],
        ),
        _specificity(run),
        provenance(run),
    ]  # fmt: skip
    title = f"Persona vector: {name}"
    lead = f"{run['trait']['description']} Model: {run['model']['id']}, layer {layer} of {run['model']['n_layers']}."
    write_page(path, title, lead, sections, verdict=run["verdict"], warnings=run["warnings"])


def _figure(title: str, svg: str, caption: str) -> Figure:
    return Figure(title, caption, Markup(svg))


def _examples(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "question": example["question"],
            "answers": [
                {
                    "label": f"coefficient {a['coefficient']:+g}" if a["coefficient"] else "plain",
                    "text": a["text"],
                    "note": f"score {number(a['score'])}, coherence {number(a['coherence'])}",
                }
                for a in example["answers"]
            ],
        }
        for example in run["examples"]
    ]


def _specificity(run: dict[str, Any]) -> Section:
    table = run["specificity"]
    if len(table["vectors"]) < 2:
        return Section(
            "Beside other traits",
            "There is no vector of another trait beside this run yet. Extract more traits into folders next to this "
            "one.",
        )
    return Section(
        "Beside other traits",
        "A direction that moves every score alike is not this trait's. Rows are vectors, columns vectors or scores.",
        figures=[
            _figure(
                "Cosines",
                figures.matrix(
                    table["vectors"], table["vectors"], table["cosine"], "{:+.2f}", "Cosines", ("vector", "vector"), 1
                ),
                "1 is the same direction, 0 unrelated, -1 opposite; at the layer of the row's vector.",
            ),
            _figure(
                "Effect on scores",
                figures.matrix(
                    table["vectors"],
                    table["scores"],
                    table["effect"],
                    "{:+.0f}",
                    "Effects",
                    ("steered by", "score of"),
                    60,
                ),
                "Points by which steering by the row's vector moves the column's score. Empty: not measured.",
            ),
        ],
    )
