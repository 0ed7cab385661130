"""A sequence classifier as judge: how likely it finds that an answer has one of its labels."""

import logging
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from personavec.errors import UserError
from personavec.judges.base import UNFITTED, Advance, Judge, JudgeModel, JudgeState
from personavec.judges.contrast import LikelihoodJudge
from personavec.judges.kinds import Surroundings
from personavec.model import ChatModel
from personavec.model.load import choose_dtype, find_source
from personavec.refusals import refuses
from personavec.rollouts import Rollout
from personavec.traits import Trait

log = logging.getLogger(__name__)

BATCH = 32
UNBOUNDED = 10**6  # tokens; tokenizers that know of no limit name a larger one
LABELS_SHOWN = 20


class Classifier:
    """Probabilities of labels for texts, each read by itself: texts of other lengths share no batch, so none is padded.

    Args:
        model: Any of transformers' models for sequence classification.
        tokenizer: Its own.
        name: What messages call it.

    Attributes:
        labels: By index.
        limit: Tokens of a text that it reads; None: all.

    Raises:
        UserError: Its figures are no probabilities.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        config = model.config
        self.labels = [str(config.id2label[index]) for index in range(config.num_labels)]
        kind = config.problem_type or ("single_label_classification" if len(self.labels) > 1 else "")
        if kind not in ("single_label_classification", "multi_label_classification"):
            raise UserError(
                f"The figures of the classifier {name} are no probabilities (problem type "
                f"{config.problem_type or 'not given'}, {len(self.labels)} label).",
                "Name a classifier of one of several labels, or one whose config.json says multi_label_classification.",
            )
        self._exclusive = kind == "single_label_classification"
        self.limit = _limit(model, tokenizer)
        self._warned = False

    def probabilities(self, texts: Sequence[str]) -> Tensor:
        """(texts, labels), float32, 0..1: they sum to one if the labels exclude one another.

        Of a text that is longer than the limit, the beginning is read; this is said once.

        Raises:
            UserError: The classifier gives no number, or its tokenizer is another model's.
        """
        rows = [self._ids(text) for text in texts]
        found = torch.zeros(len(texts), len(self.labels))
        order = sorted(range(len(rows)), key=lambda at: len(rows[at]))
        for _, group in groupby(order, key=lambda at: len(rows[at])):
            alike = list(group)
            # Without a token for padding, some models refuse more than one row, whether or not anything is padded.
            most = BATCH if self.model.config.pad_token_id is not None else 1
            for start in range(0, len(alike), most):
                batch = alike[start : start + most]
                ids = torch.tensor([rows[at] for at in batch], device=self.model.device)
                with torch.inference_mode():
                    logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float().cpu()
                found[batch] = logits.softmax(-1) if self._exclusive else logits.sigmoid()
        if not bool(found.isfinite().all()):
            raise UserError(f"The classifier {self.name} gives figures that are no numbers.", "Try `dtype` float32.")
        return found

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        if self.limit is not None and len(ids) > self.limit:
            if not self._warned:
                log.warning("%s reads %d tokens: of longer answers it judges the beginning.", self.name, self.limit)
                self._warned = True
            ids = self.tokenizer(text, truncation=True, max_length=self.limit)["input_ids"]
        rows = self.model.get_input_embeddings().num_embeddings
        if not ids or max(ids) >= rows:
            raise UserError(
                f"The tokenizer of the classifier {self.name} does not fit its {rows} tokens.",
                "Copy or download its folder again.",
            )
        return ids


class ClassifierJudge(Judge):
    """Scores 100 times the probability of a label. Refusals and empty answers have no score.

    The classifier reads the answer alone, without its question.
    """

    def __init__(self, classifier: Classifier, label: int, name: str) -> None:
        self.classifier, self.label, self.name = classifier, label, name

    def score(self, rollouts: Sequence[Rollout], advance: Advance | None = None) -> None:
        """Score these. Raises as `Classifier.probabilities`."""
        spoken = []
        for rollout in rollouts:
            rollout.score = None
            if rollout.text.strip() and not refuses(rollout.text):
                spoken.append(rollout)
        found = self.classifier.probabilities([rollout.text for rollout in spoken])[:, self.label].tolist()
        for rollout, probability in zip(spoken, found, strict=True):
            rollout.score = 100 * probability
        if advance is not None:
            advance(len(rollouts))


class ClassifierModel(JudgeModel):
    """A classifier whose labels stand for traits.

    Args:
        classifier: Reads the answers.
        name: As the user names the judge.
        labels: What the user says after "#": a label, or "TRAIT=LABEL,TRAIT=LABEL"; empty for labels that are named as
            the traits are.
        answering: The model that answers, which judges coherence; None: nobody does.
    """

    def __init__(self, classifier: Classifier, name: str, labels: str, answering: ChatModel | None) -> None:
        self.classifier, self.name, self.answering = classifier, name, answering
        self._by_trait: dict[str, int] = {}
        self._only: int | None = None
        self._trait: str | None = None  # the one that `_only` stands for
        if "=" in labels and self._find(labels) is None:
            for pair in labels.split(","):
                trait, _, label = pair.partition("=")
                self._by_trait[_plain(trait)] = self._named(label)
        elif labels:
            self._only = self._named(labels)

    def of_trait(self, trait: Trait, state: JudgeState = UNFITTED) -> ClassifierJudge:
        """By the label that was named for the trait, or else has its name.

        Raises:
            UserError: There is no such label, or one label would stand for two traits.
        """
        label = self._by_trait.get(_plain(trait.name))
        if label is None and self._only is not None:
            if self._trait not in (None, trait.name):
                raise UserError(
                    f"One label of {self.classifier.name} is named for two traits, {self._trait!r} and {trait.name!r}.",
                    f"Name one for each: {self._spelled(f'{self._trait}=LABEL,{trait.name}=LABEL')}",
                )
            self._trait, label = trait.name, self._only
        if label is None:
            label = self._find(trait.name)
        if label is None:
            raise UserError(
                f"The classifier {self.classifier.name} has no label that is named {trait.name!r}, as the trait is. "
                f"{self._labels()}",
                f"Name one: {self._spelled('LABEL' if not self._by_trait else f'{trait.name}=LABEL')}",
            )
        return ClassifierJudge(self.classifier, label, self.name)

    def of_coherence(self, trait: Trait, state: JudgeState = UNFITTED) -> LikelihoodJudge | None:
        """By the model that answers."""
        return None if self.answering is None else LikelihoodJudge(self.answering, state.coherence)

    def _find(self, label: str) -> int | None:
        """The one label of this name, upper case and separators aside; None if there is none, or more than one."""
        for alike in (str, _plain):
            found = [at for at, mine in enumerate(self.classifier.labels) if alike(mine) == alike(label)]
            if found:
                return found[0] if len(found) == 1 else None
        return None

    def _named(self, label: str) -> int:
        found = self._find(label)
        if found is None:
            raise UserError(
                f"The classifier {self.classifier.name} has no label {label!r}, or several. {self._labels()}",
                f"Name one of them: {self._spelled('LABEL')}",
            )
        return found

    def _labels(self) -> str:
        labels = self.classifier.labels
        more = f" and {len(labels) - LABELS_SHOWN} more" if len(labels) > LABELS_SHOWN else ""
        return f"Its labels: {', '.join(labels[:LABELS_SHOWN])}{more}."

    def _spelled(self, labels: str) -> str:
        return f"`judge` classifier:{self.classifier.name}#{labels}"


def open_model(which: str, surroundings: Surroundings) -> ClassifierModel:
    """A classifier from a folder or the hub.

    Args:
        which: "MODEL", "MODEL#LABEL" or "MODEL#TRAIT=LABEL,TRAIT=LABEL".

    Raises:
        UserError: It cannot be loaded, or has not the labels.
    """
    model, labels = (which, "") if Path(which).exists() or "#" not in which else which.rsplit("#", 1)
    classifier = load_classifier(model, device=surroundings.device, dtype=surroundings.dtype)
    return ClassifierModel(classifier, f"classifier:{which}", labels, surroundings.model)


def load_classifier(name: str, *, device: str | None = None, dtype: str | None = None) -> Classifier:
    """Load a model for sequence classification with its tokenizer.

    Args:
        name: A folder or a hub id.
        device: None: a GPU if there is one.
        dtype: None: float32 on a CPU, the checkpoint's own elsewhere.

    Raises:
        UserError: It does not exist, is no classifier, lacks weights, or gives no probabilities.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    options: dict[str, Any] = {"dtype": choose_dtype(dtype or ("float32" if device == "cpu" else None), device)}
    if device != "cpu":
        options["device_map"] = device
    source = find_source(name)
    advice = "Give the folder or the hub id of a model for sequence classification."
    try:
        built = AutoConfig.from_pretrained(source.place).architectures or []
        if source.kind not in ("folder", "hub") or not any("ForSequenceClassification" in one for one in built):
            raise UserError(f"{name} is no classifier ({', '.join(built) or 'architecture not given'}).", advice)
        tokenizer = AutoTokenizer.from_pretrained(source.place)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            source.place, output_loading_info=True, **options
        )
    except (UserError, MemoryError):
        raise
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"Cannot load the classifier {name}: {said or type(error).__name__}", advice) from error
    missing = sorted(report["missing_keys"])
    if missing:  # they were filled with random numbers
        raise UserError(
            f"{len(missing)} weights of the classifier {name} are not in its files: {', '.join(missing[:3])}.",
            "Copy or download the whole checkpoint.",
        )
    return Classifier(model, tokenizer, name)


def _limit(model: Any, tokenizer: Any) -> int | None:
    """Tokens that a model reads, as far as it or its tokenizer says."""
    positions = getattr(model.config, "max_position_embeddings", None) or UNBOUNDED
    if hasattr(getattr(model.base_model, "embeddings", None), "padding_idx"):  # RoBERTa's positions begin after it
        positions -= model.base_model.embeddings.padding_idx + 1
    limit = min(tokenizer.model_max_length, positions)
    return limit if 0 < limit < UNBOUNDED else None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
