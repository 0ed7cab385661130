"""The card of a vector: what it is, what was measured of it, and what nobody should conclude from that."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from personavec.extraction import plots, prompting
from personavec.info import Steering, VectorInfo
from personavec.report.drawing import standalone
from personavec.report.words import estimate, span
from personavec.vector import PersonaVector

VECTOR, PICTURE = "vector.safetensors", "dose-response.svg"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TAGS = ("personavec", "persona-vector", "steering-vector", "activation-steering", "interpretability")


def card(vector: PersonaVector, repository: str, sha256: str) -> str:
    """The README.md of a repository that holds the vector, in Markdown.

    Args:
        repository: "owner/name", for the commands.
        sha256: Of the vector's file.
    """
    return "\n".join(
        [
            *_front_matter(vector),
            "",
            f"# {vector.trait}: a persona vector of {vector.model.get('id', 'a model')}",
            "",
            *_what(vector, sha256),
            "",
            "## What it does",
            "",
            *_does(vector),
            "",
            "## What it must not be trusted for",
            "",
            *(f"- {sentence}" for sentence in _limits(vector)),
            "",
            "## Use",
            "",
            f"With `pip install personavec`, on the command line `personavec hub pull {repository}`; in Python:",
            "",
            "```python",
            *_code(vector, repository),
            "```",
            "",
        ]
    )


def picture(vector: PersonaVector) -> str | None:
    """The dose-response as SVG; None where none was measured."""
    info = vector.info
    if not info.dose_response:
        return None
    return standalone(plots.dose_response(vector.trait, info.dose_response, info.coherent_range or (0.0, 0.0)))


def _front_matter(vector: PersonaVector) -> list[str]:
    """YAML; a JSON string is one in YAML too."""
    base = str(vector.model.get("id") or "")
    known = [f"base_model: {json.dumps(base)}"] if _HUB_ID.fullmatch(base) and not Path(base).exists() else []
    return ["---", "library_name: personavec", *known, "tags:", *(f"- {tag}" for tag in _TAGS), "---"]


def _what(vector: PersonaVector, sha256: str) -> list[str]:
    model, layer = vector.model, vector.layer
    described = (vector.info.trait or {}).get("description")
    norm = float(vector.at(layer).norm())
    share = "" if vector.residual_norm is None else f"; the stream it is added to has {vector.residual_norm[layer]:.4g}"
    return [
        *([str(described), ""] if described else []),
        "A direction in the residual stream of one model. Added while the model answers it is meant to bring out the "
        "trait, subtracted to take it back; answers and data can be read along it. Made and measured with personavec.",
        "",
        "| | |",
        "|---|---|",
        f"| base model | {model.get('id', 'not known')} |",
        f"| its weights, chat template (short hashes) | `{model.get('weights')}`, `{model.get('template')}` |",
        f"| its shape | {vector.n_layers} layers, width {vector.directions.shape[1]} |",
        f"| layer to use | {layer}, counted from 1: the output of that block (row 0 of the file is the embeddings) |",
        f"| norm there | {norm:.4g}{share} |",
        f"| SHA-256 of `{VECTOR}` | `{sha256}` |",
        f"| directions (short hash) | `{vector.hash}` |",
        *_read_too(vector),
    ]


def _read_too(vector: PersonaVector) -> list[str]:
    if vector.read is None:
        return []
    return [f"| data are read along | another direction, at layer {vector.read.layer} (`{vector.read.hash}`) |"]


def _does(vector: PersonaVector) -> list[str]:
    info = vector.info
    if not info.dose_response:
        return ["Nothing was measured of this file."]
    judge = info.judge.name if info.judge is not None else "unknown"
    rows = [
        f"| {point.coefficient:+.3g} | {100 * point.share:+.3g} % | {estimate(point.score)} | "
        f"{estimate(point.coherence)} |"
        for point in info.dose_response
    ]
    return [
        f"![Score and coherence by coefficient]({PICTURE})",
        "",
        f"Scores are those of the {judge} judge, 0 to 100; coherence is judged by the model itself; both on questions "
        "that the vector is not made of, n is their number. The push is the share of the stream's norm.",
        "",
        "| coefficient | push | trait score | coherence |",
        "|---|---|---|---|",
        *rows,
        "",
        *(f"- {sentence}" for sentence in _figures(vector.trait, info)),
    ]


def _figures(trait: str, info: VectorInfo) -> Iterator[str]:
    if info.coherent_range is not None:
        low, high = info.coherent_range
        best = info.recommended_coefficient
        yield (
            (
                "No coefficient is recommended."
                if best is None
                else f"Recommended strength: coefficients up to {best:.3g}."
            )
            + f" Of those tried, answers stay coherent (at least 80 % of natural) from {low:+.3g} to {high:+.3g}."
        )
    if (found := info.steering) is not None:
        yield _steering(found)
    yield from prompting.sentences(trait, info.prompting)
    if (apart := info.separation) is not None:
        yield (
            f"Projections tell unseen answers with the trait from others with AUC {apart.auc.mean:.2f} "
            f"({span(apart.auc, '.2f', 'questions')}); directions made of shuffled sides reach "
            f"{apart.null.shuffled.p95:.2f} at the 95th percentile (n = {apart.null.shuffled.n})."
        )
    for other, effect in (info.cross_effects or {}).items():
        yield f"It moves the score of {other} by {effect.mean:+.0f} points ({span(effect, '+.0f', 'questions')})."


def _steering(found: Steering) -> str:
    at, null = found.coefficient, found.null
    remains = found.style.remains if found.style is not None else None
    style = "" if remains is None else f" With the style of answers held equal {remains.mean:+.0f} remain."
    return (
        f"From {-at:+.3g} to {at:+.3g} the score moves by {found.effect.mean:+.0f} points "
        f"({span(found.effect, '+.0f', 'questions')}); on the questions where random directions of equal norm were "
        f"tried, by {found.effect_on_null_questions:+.0f}, and by at most {null.max:.0f} by any of these {null.n} "
        f"(p = {null.p:.2f}).{style}"
    )


def _limits(vector: PersonaVector) -> Iterator[str]:
    info = vector.info
    yield (
        "Other weights: it belongs to the model above, and personavec refuses others. Fine-tunes and quantised copies "
        "take it where `other_weights` is asked for; what it does there is not known."
    )
    if info.steering is None:
        yield "Steering: what it does to answers was not measured."
    elif info.steering.effect.low <= 0:
        yield "Steering: it was not shown to move the answers."
    else:
        yield (
            "Strength: coefficients mean something for this model, layer and `response` positions alone. Beyond the "
            "coherent range answers may be noise."
        )
    judge = info.judge.name if info.judge is not None else "unknown"
    yield f"People's judgement: the scores are those of a machine (the {judge} judge), on a few questions, in English."
    if not info.cross_effects:
        yield "This trait alone: whether it moves others as well was not measured here."
    yield (
        "Safety: neither does subtracting it make a model safe, nor does a low projection prove an answer harmless. A "
        "vector of a harmful trait brings that trait out when it is added."
    )


def _code(vector: PersonaVector, repository: str) -> list[str]:
    best = vector.info.recommended_coefficient or 1.0
    model = json.dumps(vector.model.get("id") or "MODEL")
    return [
        "import personavec as pv",
        "from personavec.hub import pull",
        "",
        f"vector, _ = pull({json.dumps(repository)}, {json.dumps(VECTOR)})",
        f"model = pv.load_model({model})",
        f'print(model.answer("Tell me about your day.", pv.steering(vector, {best:.3g})))',
    ]
