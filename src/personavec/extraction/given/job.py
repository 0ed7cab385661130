"""From contrastive texts that somebody wrote to a persona vector, and what the vector does to the model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from personavec.data.record import Record
from personavec.errors import UserError
from personavec.extraction.figures import coherent_coefficients, separation
from personavec.extraction.given.page import write_texts_report
from personavec.extraction.given.reading import Half, choose_layer, controls, difference, one_sided
from personavec.extraction.given.result import LayerChoice, Opinion, TextFacts, TextsExtraction, TextsRun, Twin
from personavec.extraction.given.settings import TextSettings
from personavec.extraction.given.steering import (
    EFFECT,
    Steered,
    effects,
    pushes,
    random_examples,
    rank_correlation,
    steer,
    text_rollouts,
)
from personavec.extraction.given.verdict import reads, verdict, works
from personavec.extraction.prompting import prompting
from personavec.extraction.result import TraitFacts
from personavec.extraction.settings import ExtractionSettings
from personavec.extraction.workbench import Workbench
from personavec.files import RunFolder, check_utf8, to_json, write_atomic
from personavec.info import JudgeFacts
from personavec.judges.base import TwoJudges
from personavec.judges.contrast import LikelihoodJudge
from personavec.judges.probe import Probe, ProbeJudge, fit_probe, probe_layers
from personavec.model import ChatModel
from personavec.progress import progress
from personavec.provenance import identity, provenance
from personavec.rollouts import Rollout, write_rollouts
from personavec.stats.estimate import Estimate
from personavec.texts import Text, Texts, read_answers
from personavec.texts.contrastive import MIDDLE, find_texts
from personavec.traits import Trait
from personavec.vector import PersonaVector, beside, cosine

VECTOR, ROLLOUTS, CONTRAST, REJECTED = "vector.safetensors", "rollouts.jsonl", "contrast.jsonl", "rejected.jsonl"


def extract_from_texts(
    model: ChatModel,
    trait: Trait,
    texts: Texts | Path | str,
    out: Path | str,
    settings: TextSettings | None = None,
) -> TextsExtraction:
    """Make a persona vector of texts that somebody wrote, read without any instruction, and measure what it does.

    For traits that the model reads but cannot be told to show. The texts' first half makes the vector, the other half
    says how well it reads; the trait's evaluation questions say what steering by it does.

    Args:
        model: The model, unsteered.
        trait: What the texts show; supplies the evaluation questions, and the contrast judge's instructions.
        texts: "library", a file as `read_texts` takes it, or texts.
        out: Run folder: vector.safetensors, rollouts.jsonl (with the probe's scores), contrast.jsonl (the contrast
            judge's), rejected.jsonl, run.json and report.html go there. A run that was cut off goes on where it
            stopped; a finished one is read back, and compared with what has been extracted beside it since.
        settings: See `TextSettings`; None: the defaults.

    Raises:
        UserError: The texts are too few, the vector neither reads nor steers, the settings do not fit, or the folder
            holds another run.
    """
    check_utf8(out)
    settings = settings or TextSettings()
    settings.check(model)
    given = texts if isinstance(texts, Texts) else find_texts(texts, trait)
    arguments = {
        **asdict(settings),
        "texts": given.hash,
        "trait": trait.model_dump(mode="json"),
        **identity(model),
    }
    with RunFolder(out, arguments) as folder:
        if (folder / VECTOR).exists() and (run := folder.finished(TextsRun.read)) is not None:
            vector = PersonaVector.load(folder / VECTOR)
            if [name for name, _ in _same_trait(folder, vector)] == [twin.folder for twin in run.twins]:
                return TextsExtraction(vector, run)
            half = _read_half(model, given.test, settings.tokens)
            return _finish(folder, vector, run.with_(twins=_twins(folder, vector, half, settings.seed)))
        if given.rejected:
            write_atomic(folder / REJECTED, "".join(_rejected_line(*rejected) for rejected in given.rejected))
        return _extract(_bench(model, trait, folder, settings), given, settings)


@dataclass(frozen=True)
class _Read:
    """What the texts alone gave.

    Attributes:
        layers: That could be chosen; none where the user chose.
    """

    vector: PersonaVector
    layers: list[LayerChoice]
    extract: Half
    test: Half
    probe: Probe


def _bench(model: ChatModel, trait: Trait, folder: RunFolder, settings: TextSettings) -> Workbench:
    shared = {name: getattr(settings, name) for name in ("max_new_tokens", "random_directions", "seed")}
    return Workbench(model, trait, folder, ExtractionSettings(**shared), LikelihoodJudge(model))


def _extract(bench: Workbench, texts: Texts, settings: TextSettings) -> TextsExtraction:
    read = _read(bench, texts, settings)
    halves = {"extract": texts.extract, "test": texts.test}
    extract, test = (text_rollouts(bench.model, split, half, settings.tokens) for split, half in halves.items())
    bench.scorer = TwoJudges(ProbeJudge(bench.model, read.probe, "probe", settings.tokens), bench.scorer)
    steered = steer(bench, read.vector, extract, test)
    run = _summary(bench, texts, settings, read, extract, steered)
    _write_answers(bench, steered)
    _check(run)
    judge = JudgeFacts(  # the state is the contrast judge's, whom later jobs ask, for coherence at least
        name=bench.scorer.name, auc=read.probe.auc, threshold=MIDDLE, state=steered.state.record()
    )
    vector = replace(steered.vector, info=run.info(bench.trait, judge))
    run = run.with_(twins=_twins(bench.folder, vector, read.test, settings.seed))
    extraction = _finish(bench.folder, vector, run)
    bench.log.path.unlink(missing_ok=True)
    bench.timings.close()
    return extraction


def _read(bench: Workbench, texts: Texts, settings: TextSettings) -> _Read:
    """The vector at its layer, and the probe."""
    model, seed = bench.model, settings.seed
    with bench.timings.stage("read"):
        extract, test = (_read_half(model, half, settings.tokens) for half in (texts.extract, texts.test))
    at = probe_layers(model.n_layers)
    probe = fit_probe(texts, at, extract.readings[:, at], test.readings[:, at], seed)
    layers = choose_layer(extract, seed) if settings.layer == "auto" else []
    best = max(layers, key=lambda choice: choice.distance).layer if layers else int(settings.layer)
    if texts.rejected:
        bench.warnings.append(f"{len(texts.rejected)} records are no texts; why, stands in {REJECTED}.")
    if apart := one_sided(texts.extract):
        bench.warnings.append(
            f"{apart} of {len(set(extract.questions))} questions have answers of one side only: whatever else differs "
            "between the questions counts as the trait."
        )
    if probe.auc.low <= 0.5:
        bench.warnings.append(
            f"The probe does not tell the sides of the test texts apart (AUC {probe.auc.mean:.2f}): its scores say "
            "nothing."
        )
    vector = PersonaVector(
        trait=bench.trait.name,
        directions=difference(extract.readings, extract.positive),
        layer=best,
        model={
            "id": model.id,
            "weights": model.weights_hash,
            "template": model.template.hash,
            "n_layers": model.n_layers,
            "hidden_size": model.hidden_size,
        },
    )
    return _Read(vector, layers, extract, test, probe)


def _read_half(model: ChatModel, texts: Sequence[Text], tokens: int) -> Half:
    """At all layers."""
    questions, answers = [text.question for text in texts], [text.answer for text in texts]
    with progress("1/4 Reading the texts", total=len(texts), unit="texts") as job:
        return Half(tuple(texts), read_answers(model, questions, answers, tokens=tokens, advance=job.advance))


def _summary(
    bench: Workbench, texts: Texts, settings: TextSettings, read: _Read, made_of: Sequence[Rollout], steered: Steered
) -> TextsRun:
    """All figures but those of vectors beside this one, and what they say.

    Args:
        made_of: The texts that the vector is made of, as rollouts.
    """
    vector, seed, trait = steered.vector, settings.seed, bench.trait
    assert vector.residual_norm is not None
    norm, residual = float(vector.at(vector.layer).norm()), float(vector.residual_norm[vector.layer])
    with bench.timings.stage("controls"):
        curve = pushes(steered.dose, steered.unit, seed)
        coherent = coherent_coefficients({push.coefficient: push.coherence.mean for push in curve})
        strongest = max((c for c in coherent if c > 0), default=None)
        judges = _opinions(bench, read, steered)
        run = TextsRun.of(
            provenance(bench.model, {**asdict(settings), "texts": texts.source}),
            trait=TraitFacts(name=trait.name, description=trait.description, writer=trait.writer),
            texts=TextFacts(
                source=texts.source,
                hash=texts.hash,
                extract=len(texts.extract),
                test=len(texts.test),
                questions=len(set(read.extract.questions)),
                test_questions=len(set(read.test.questions)),
                rejected=len(texts.rejected),
            ),
            layer=vector.layer,
            layers=read.layers,
            residual_norm=residual,
            vector_norm=norm,
            separation=separation(vector, made_of, read.extract.sides, steered.texts, read.test.sides, seed),
            controls=controls(vector.directions, vector.layer, read.extract, read.test, seed),
            judges=judges,
            pushes=curve,
            prompting=prompting(
                trait.system_prompts(0)[0], steered.prompted, steered.dose, EFFECT * steered.unit, seed
            ),
            coherent_range=(min(coherent), max(coherent)),
            recommended_coefficient=strongest if all(map(works, judges)) else None,
            spearman=rank_correlation(steered.dose[judges[0].name], seed),
            twins=(),
            examples=random_examples(steered.dose, steered.unit, seed),
            verdict=(),
            warnings=bench.warnings,
            seconds=0.0,
            timings={},
        )
    return run.with_(seconds=round(bench.timings.seconds, 1), timings=bench.timings.stages)


def _opinions(bench: Workbench, read: _Read, steered: Steered) -> list[Opinion]:
    """Of the probe, then of the contrast judge."""
    seed = bench.settings.seed
    aucs = {"probe": read.probe.auc, "contrast": _contrast_auc(read.test, steered.texts, seed)}
    ranks = {"probe": read.probe.spearman}
    return [
        Opinion(name=name, auc=aucs[name], spearman=ranks.get(name), steering=steering)
        for name, steering in effects(steered, seed).items()
    ]


def _contrast_auc(test: Half, scored: Sequence[Rollout], seed: int) -> Estimate | None:
    """On those of the test half that have a score; None: none of a side has."""
    known = [place for place, text in enumerate(scored) if text.score is not None]
    half = Half(tuple(test.texts[place] for place in known), test.readings[known])
    if not 0 < int(half.positive.sum()) < len(known):
        return None
    return half.auc(np.array([scored[place].score for place in known], np.float64), seed)


def _check(run: TextsRun) -> None:
    """Refuse a vector that neither moves the answers nor tells unseen texts apart."""
    if not reads(run) and not any(map(works, run.judges)):
        auc = run.separation.auc
        raise UserError(
            f"The vector of {run.trait.name!r} from these texts does nothing that can be told from chance on "
            f"{run.model.id}: no judge sees steering by it move the answers, and projections tell texts about other "
            f"questions apart with AUC {auc.mean:.2f} ({auc.low:.2f} to {auc.high:.2f}, n = {auc.n} questions). "
            "It was not saved.",
            "Give more texts (20 or more of each side), answers of both sides to every question, or use a more capable "
            "`model`.",
        )


def _same_trait(folder: RunFolder, vector: PersonaVector) -> list[tuple[str, PersonaVector]]:
    """Vectors of the trait that the model's own rollouts gave, by the folders of their runs."""
    return [
        (path.name, other)
        for path, other in beside(folder.path, vector)
        if other.trait == vector.trait and other.info.rollouts is not None
    ]


def _twins(folder: RunFolder, vector: PersonaVector, test: Half, seed: int) -> list[Twin]:
    return [
        Twin(
            folder=name,
            layer=other.layer,
            cosine=cosine(vector, other, vector.layer),
            cosine_there=cosine(vector, other, other.layer),
            auc=test.auc((test.readings[:, other.layer] @ other.unit(other.layer)).double().numpy(), seed),
            steering=other.info.steering.effect if other.info.steering is not None else None,
        )
        for name, other in _same_trait(folder, vector)
    ]


def _finish(folder: RunFolder, vector: PersonaVector, run: TextsRun) -> TextsExtraction:
    """Write the vector, the report and the summary. A finished run comes here again when it has got another twin."""
    run = run.with_(verdict=verdict(run))
    vector.save(folder / VECTOR)
    write_texts_report(run, folder / "report.html")
    run.write(folder.path)
    return TextsExtraction(vector, run)


def _write_answers(bench: Workbench, steered: Steered) -> None:
    """All answers with either judge's scores, also when the vector turns out to be of no use."""
    probe, contrast = (
        [*answers, *steered.null[name], *steered.prompted[name]] for name, answers in steered.dose.items()
    )
    write_rollouts(bench.folder / ROLLOUTS, probe)
    others: list[Rollout] = [*contrast, *steered.texts]
    write_atomic(bench.folder / CONTRAST, "".join(to_json({"id": r.id, "score": r.score}) + "\n" for r in others))


def _rejected_line(record: Record, reason: str) -> str:
    raw = record.raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
    return to_json({"line": record.line, "source": record.source, "reason": reason, "raw": raw}) + "\n"
