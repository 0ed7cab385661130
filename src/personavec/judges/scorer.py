"""Who scores a run's rollouts: the contrast judge, or a rubric judge for the trait and one for coherence."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from personavec.errors import UserError
from personavec.judges import Answered, Judge
from personavec.judges.api.terms import ApiTerms
from personavec.judges.contrast import ContrastJudge
from personavec.model import ChatModel
from personavec.rollouts import Rollout
from personavec.traits import Trait

Advance = Callable[[int], None]


class Scorer(Protocol):
    """Sets `score` and `coherence` (0..100, None where there is none) of rollouts."""

    @property
    def name(self) -> str:
        """As the user named it."""

    def announce(self, questions: Sequence[str], tokens: int) -> None:
        """Say what judging will cost, if it costs anything; called once, before anything is judged.

        Args:
            questions: One for every response that will be judged, at most.
            tokens: Of the longest response.
        """

    def fit(self, contrastive: Sequence[Rollout], neutral: Sequence[Rollout], advance: Advance | None = None) -> None:
        """Score these; a judge that needs calibration takes it from them."""

    def score(self, rollouts: Sequence[Rollout], advance: Advance | None = None) -> None:
        """Score further rollouts."""

    def readings_needed(self, rollouts: int) -> int:
        """How many units `advance` will count for so many rollouts."""

    def state(self) -> dict[str, Any]:
        """What is stored with the vector."""


class RubricScorer:
    """Scores by a judge that reads the trait's rubric, and one that reads the coherence rubric."""

    def __init__(self, trait: Judge, coherence: Judge) -> None:
        self.trait, self.coherence = trait, coherence
        self.name = trait.name

    def announce(self, questions: Sequence[str], tokens: int) -> None:
        """A model on this machine costs nothing."""

    def fit(self, contrastive: Sequence[Rollout], neutral: Sequence[Rollout], advance: Advance | None = None) -> None:
        """A rubric needs no calibration: the same as `score`."""
        self.score([*contrastive, *neutral], advance)

    def score(self, rollouts: Sequence[Rollout], advance: Advance | None = None) -> None:
        """Score both ways. An empty response has no trait score and no coherence."""
        spoken = [r for r in rollouts if r.text.strip()]
        for r in rollouts:
            r.score, r.coherence = None, 0.0
        items = [Answered(r.question, r.text) for r in spoken]
        for r, score in zip(spoken, self.trait.score(items), strict=True):
            r.score = score
        if advance is not None:
            advance(len(rollouts))
        for r, score in zip(spoken, self.coherence.score(items), strict=True):
            r.coherence = score if score is not None else 0.0
        if advance is not None:
            advance(len(rollouts))

    def readings_needed(self, rollouts: int) -> int:
        """Two answers of the judge for each."""
        return 2 * rollouts

    def state(self) -> dict[str, Any]:
        """Nothing to store: the rubric is in the trait."""
        return {}


def make_scorer(name: str, model: ChatModel | None, trait: Trait, terms: ApiTerms | None = None) -> Scorer:
    """The scorer that the user names.

    Args:
        name: "contrast", "local:MODEL" (any chat model that `load_model` takes) or "api:MODEL" (behind the endpoint
            that OPENAI_BASE_URL names, with the key in OPENAI_API_KEY).
        model: For "contrast".
        terms: For "api:MODEL".

    Raises:
        UserError: No such judge.
    """
    kind, _, which = name.partition(":")
    if name == "contrast" and model is not None:
        return ContrastJudge(model, trait)
    if kind == "local" and which:
        from personavec.judges.local import local_judges

        return RubricScorer(*local_judges(which, trait))
    if kind == "api" and which:
        from personavec.judges.api.client import ApiScorer, api_judges

        return ApiScorer(*api_judges(which, trait, **vars(terms or ApiTerms())))
    raise UserError(f"Unknown judge {name!r}.", "Choose contrast, local:MODEL or api:MODEL.")
