"""The judge that reads: a regression from what the model reads in an answer to how much it shows the trait.

It learns from contrastive texts that somebody wrote, never from answers under an instruction, and reads an answer as it
stands after its question alone. So it cannot recognise an instruction, and what it says of the texts' other half, whose
questions it has not seen, is how far it can be trusted.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from personavec.errors import UserError
from personavec.judges.base import UNFITTED, Advance, Judge, JudgeModel, JudgeState
from personavec.judges.contrast import LikelihoodJudge
from personavec.judges.kinds import Surroundings
from personavec.model import ChatModel
from personavec.rollouts import Rollout
from personavec.stats.bootstrap import bootstrap_auc, pearson, spearman
from personavec.stats.estimate import Estimate
from personavec.stats.folds import folds
from personavec.stats.moments import Moments
from personavec.stats.numbers import Floats
from personavec.stats.ridge import Fit, fit_subset
from personavec.texts import TOKENS, Text, Texts, read_answers
from personavec.texts.contrastive import find_texts
from personavec.traits import Trait

log = logging.getLogger(__name__)

DEPTHS = (0.37, 0.47, 0.57, 0.67)  # layers that a probe may read at, as shares of the model's depth
FOLDS = 5
PENALTIES = (0.1, 1.0, 10.0, 30.0, 100.0, 300.0, 1e3, 1e4, np.inf)  # a reading has more features than there are texts
FAR = 1.5  # times the largest leverage of a text: beyond it an answer is like none of them


@dataclass(frozen=True, eq=False)
class Probe:
    """A ridge regression from readings at one layer to 0..100.

    Attributes:
        layer: Where it reads, 1..n_layers.
        fit: On the texts' first half.
        reach: The largest leverage of an answer that it scores.
        spearman: Rank correlation with the texts' own scores on the other half; 0 where all of a side have one score
            and the sides alone count.
        auc: How well it tells the sides of the other half apart, over questions.
    """

    layer: int
    fit: Fit
    reach: float
    spearman: float
    auc: Estimate

    def predict(self, readings: Tensor) -> tuple[Floats, Floats]:
        """Scores (n,) 0..100 and their standard errors, of readings (n, d) at the layer; NaN beyond the reach."""
        rows = readings.double().numpy()
        found, errors = (each[:, 0] for each in self.fit.predict(rows))
        far = self.fit.leverage_of(rows)[:, 0] > self.reach
        return np.where(far, np.nan, found.clip(0, 100)), np.where(far, np.nan, errors)


def train_probe(model: ChatModel, texts: Texts, seed: int = 0, advance: Advance | None = None) -> Probe:
    """Read contrastive texts, and fit a probe to what was read; see `fit_probe`."""
    layers = probe_layers(model.n_layers)
    readings, held_out = (
        read_answers(model, [t.question for t in half], [t.answer for t in half], layers, advance=advance)
        for half in (texts.extract, texts.test)
    )
    return fit_probe(texts, layers, readings, held_out, seed)


def probe_layers(n_layers: int) -> list[int]:
    """Layers that a probe may read at."""
    return sorted({max(1, round(n_layers * share)) for share in DEPTHS})


def fit_probe(texts: Texts, layers: Sequence[int], readings: Tensor, held_out: Tensor, seed: int = 0) -> Probe:
    """Fit a probe on the first half of contrastive texts, choose its layer there, and try it on the other half.

    The layer is the one whose predictions, each question left out in turn in one of five folds, correlate best.

    Args:
        layers: Among which it is chosen.
        readings, held_out: (n, layers, d) of the two halves.
    """
    wanted = _labels(texts.extract)
    left_out = folds([text.question for text in texts.extract], FOLDS, seed)
    quality = [pearson(_left_out(readings[:, at], wanted, left_out), wanted) for at in range(len(layers))]
    best = int(np.argmax(quality))
    rows, others = readings[:, best].double().numpy(), held_out[:, best].double().numpy()
    fit = fit_subset(Moments.of(rows), rows, wanted[:, None], PENALTIES)
    found = fit.predict(others)[0][:, 0]
    positive = np.array([text.side == "positive" for text in texts.test])
    questions = [text.question for text in texts.test]
    return Probe(
        layer=layers[best],
        fit=fit,
        reach=FAR * float(np.concatenate([fit.leverage, fit.leverage_of(others)]).max()),
        spearman=spearman(found, _labels(texts.test)),
        auc=bootstrap_auc(
            found[positive],
            found[~positive],
            [q for q, p in zip(questions, positive, strict=True) if p],
            [q for q, p in zip(questions, positive, strict=True) if not p],
            seed,
        ),
    )


def _labels(texts: Sequence[Text]) -> Floats:
    """What the probe is to say of them: their scores, or the ends of the scale where they have none."""
    ends = {"positive": 100.0, "negative": 0.0}
    return np.array([ends[t.side] if t.score is None else t.score for t in texts], np.float64)


def _left_out(readings: Tensor, wanted: Floats, fold_of: NDArray[np.intp]) -> Floats:
    """Predictions (n,) for each fold by the fit to the others."""
    rows = readings.double().numpy()
    found = np.zeros(len(rows))
    for fold in np.unique(fold_of):
        mine = fold_of == fold
        rest = fit_subset(Moments.of(rows[~mine]), rows[~mine], wanted[~mine, None], PENALTIES)
        found[mine] = rest.predict(rows[mine])[0][:, 0]
    return found


class ProbeJudge(Judge):
    """Scores by a probe. An answer that is empty, or like none of the texts that the probe learnt from, has no score.

    Args:
        model: Reads the answers, without steering.
        name: As the user names it.
        tokens: Of each answer that are read: as many as of the texts that the probe was fitted to.
    """

    def __init__(self, model: ChatModel, probe: Probe, name: str, tokens: int = TOKENS) -> None:
        self.model, self.probe, self.name, self.tokens = model, probe, name, tokens

    def score(self, rollouts: Sequence[Rollout], advance: Advance | None = None) -> None:
        """Set scores and their standard errors."""
        start = self.model.template.response_start
        answers = [rollout.response_ids[start(rollout.response_ids) :] for rollout in rollouts]
        spoken = [(rollout, answer) for rollout, answer in zip(rollouts, answers, strict=True) if answer]
        for rollout in rollouts:
            rollout.score = rollout.score_error = None
        if not spoken:
            return
        asked, said = [rollout.question for rollout, _ in spoken], [answer for _, answer in spoken]
        readings = read_answers(self.model, asked, said, [self.probe.layer], tokens=self.tokens, advance=advance)
        for (rollout, _), value, error in zip(spoken, *self.probe.predict(readings[:, 0]), strict=True):
            if np.isfinite(value):
                rollout.score, rollout.score_error = float(value), float(error)


class ProbeModel(JudgeModel):
    """Probes that read with the model that answers.

    Args:
        model: Unsteered.
        source: "library", or a file of contrastive texts for the one trait that is judged.
        name: As the user names the judge.
    """

    def __init__(self, model: ChatModel, source: str, name: str) -> None:
        self.model, self.source, self.name = model, source, name
        self._probes: dict[str, Probe] = {}

    def probe(self, trait: Trait) -> Probe:
        """The trait's probe, made once.

        Raises:
            UserError: There are no texts for it, those of a file stand for another trait already, or a probe made of
                them does not tell the sides of others apart.
        """
        if trait.name not in self._probes:
            if self._probes and self.source != "library":
                raise UserError(
                    f"The texts of {self.source} would stand for two traits, {next(iter(self._probes))!r} and "
                    f"{trait.name!r}.",
                    "Judge one trait at a time, or leave the file out where the library has texts for them.",
                )
            texts = find_texts(self.source, trait)
            if texts.rejected:
                (record, reason), *_ = texts.rejected
                log.warning(
                    "%d records of %s are no texts and were left out; the first, line %d: %s.",
                    len(texts.rejected), self.source, record.line, reason,
                )  # fmt: skip
            found = train_probe(self.model, texts)
            if found.auc.low <= 0.5:
                raise UserError(
                    f"A probe for {trait.name!r} on {self.model.id} does not tell the sides of texts apart that it "
                    f"has not seen: AUC {found.auc:.2f}, n = {found.auc.n} questions.",
                    "Give more texts, or choose another judge.",
                )
            self._probes[trait.name] = found
        return self._probes[trait.name]

    def of_trait(self, trait: Trait, state: JudgeState = UNFITTED) -> ProbeJudge:
        """By the texts for the trait. Raises as `probe`."""
        return ProbeJudge(self.model, self.probe(trait), self.name)

    def of_coherence(self, trait: Trait, state: JudgeState = UNFITTED) -> LikelihoodJudge:
        """By the likelihood of the answer."""
        return LikelihoodJudge(self.model, state.coherence)


def open_model(which: str, surroundings: Surroundings) -> ProbeModel:
    """Probes from the library's texts, or from those of a file.

    Raises:
        UserError: The model that answers is not in this process.
    """
    if surroundings.model is None:
        raise UserError(
            "The judge `probe` reads with the model that answers, which is not at hand here.",
            "Choose another judge, or run with `engine` transformers.",
        )
    name = f"probe:{which}" if which else "probe"
    return ProbeModel(surroundings.model, which or "library", name)
