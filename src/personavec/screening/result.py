"""What a screening found: `ScreeningRun`, the content of its run.json; what a page shows of samples; comparisons."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, TypeAdapter

from personavec.results import Figure, Number, Result, Run
from personavec.screening.settings import Baseline, ScreenSettings
from personavec.stats.nulls import Null, Place

RoundedPlace = Annotated[Place, AfterValidator(Place.rounded)]  # a place as files hold it
Standing = Literal["top", "threshold", "bottom"]  # where a sample that is shown stands along a trait


class WholeReadings(Result):
    """The samples whose readings were kept whole, along the trait's direction: as nulls and other traits are measured.

    Attributes:
        shift: Data minus clean reference, in deviations of the latter's samples.
        auc: Probability that a sample of the data lies above one of the reference.
        n: Samples of the data.
    """

    shift: Number
    auc: Number
    n: int


class Nulls(Result):
    """The place of the shift among the shifts along random directions.

    Attributes:
        isotropic: Any directions.
        covariance: Directions with the covariance of clean answers' differences from the model's own.
    """

    isotropic: RoundedPlace
    covariance: RoundedPlace


class Covariates(Result):
    """The shift before and after covariates are held equal, in deviations of the reference; of at most 65,536 samples.

    Attributes:
        used: The covariates that vary.
        raw: Shift without them.
        remaining: With them; None where they tell the data from the reference alone.
        explained: Share of the raw shift that went away; None where that cannot be said.
    """

    used: list[str]
    raw: Figure
    remaining: Figure | None
    explained: Number | None


class ReferencePlace(Result):
    """A further reference set.

    Attributes:
        name: Its files.
        samples: Their number.
        projection_difference: In units of the residual stream.
        shift: This set minus the clean reference, in deviations of clean samples.
        above: The data minus this set, likewise.
        random: Place of that among random directions, where readings were kept whole.
    """

    name: str
    samples: int
    projection_difference: Figure
    shift: Figure
    above: Figure
    random: RoundedPlace


class AgainstDomains(Result):
    """The data against clean domains, one by one, each along a direction that was made without that domain; of the
    samples whose readings were kept whole.

    Attributes:
        worst: The domain that the data differ from least.
        auc: Probability that a sample of the data lies above one of it. Its interval holds for the least of the
            domains' figures, whichever is truly least.
        aucs: The same for every domain.
        random: Place of `auc` among random directions with the covariance of clean answers, treated alike and each free
            to choose its sign, by the distance from 1/2.
        placebos: Among directions of shuffled labels; None: there are no texts for the trait.
        instead: Samples above the level of known clean ones (`near`) that were not flagged, by the other trait along
            which they read higher.
        unknown: Samples that are not flagged because their domain may be one that the bank lacks: above the threshold
            of domains at hand, but no higher than samples of a domain that is left out lie, or like no domain at all.
        near: Projection difference above which a sample is flagged that lies nearest to a reference set of the user's:
            `threshold` is that of all others.
        leads: How much higher `auc` is than the same along each other trait's direction, by a paired bootstrap.
    """

    worst: str
    auc: Figure
    aucs: dict[str, Number]
    random: RoundedPlace
    placebos: RoundedPlace | None
    instead: dict[str, int]
    unknown: int
    near: Number | None = None
    leads: dict[str, Figure] = Field(default_factory=dict)


class JudgeCounts(Result):
    """What a judge said.

    Attributes:
        scored: Samples with a score.
        above_50: How many of them scored above 50 of 100.
    """

    scored: int
    above_50: int


class TraitFindings(Result):
    """What a screening found along one trait.

    Attributes:
        projection_difference: Mean over the samples of answer minus baseline, in units of the residual stream.
        generation: Half width of its 95 % interval that is due to baselines that were predicted, in the same units.
        generated: How many baselines were not predicted.
        reference: The projection difference of the clean reference.
        deviation: Of the reference's samples, in the same units.
        shift: Projection difference minus reference, in those deviations.
        r_squared: Share of the variance of the model's own answers that the prompt predicts; None: no prediction.
        own: The samples whose readings were kept whole.
        nulls: Place of `own.shift` among random directions.
        p_holm: p-value of `nulls.covariance`, or the larger of `domains`, corrected for the number of traits that were
            screened (Holm).
        others: Shift along the other traits' directions, by trait, as `own.shift`.
        leads: How much larger `own.shift` is than each of these, by absolute value, over the same samples.
        auc: Probability that a sample of the data lies above one of the reference; of at most 65,536 samples.
        auc_null: max(AUC, 1 - AUC) of random directions.
        covariates: What answer length, refusals and prompt length explain.
        specific: Whether the data differ in this trait: whether the shift exceeds random directions (by `p_holm`) and
            other traits (by `leads`), and is not explained by covariates; with `domains`, whether their `auc` does.
        sentences: That in words, the verdict first.
        threshold: Projection difference above which a sample is flagged.
        false_alarms: 95 % interval of the rate of false alarms, 0..1; None: the threshold was given.
        flagged: Samples.
        specific_share: Cosine of the vector with the direction that was used; 1: the vector itself.
        references: The further reference sets.
        judge: None: no judge.
        domains: None: the direction was not made to differ from domains.
    """

    projection_difference: Figure
    generation: Number
    generated: int
    reference: Figure
    deviation: Number
    shift: Figure
    r_squared: Number | None
    own: WholeReadings
    nulls: Nulls
    p_holm: Number
    others: dict[str, Number]
    leads: dict[str, Figure]
    auc: Figure
    auc_null: Null
    covariates: Covariates
    specific: bool
    sentences: list[str]
    threshold: Number
    false_alarms: tuple[Number, Number] | None
    flagged: int
    specific_share: Number
    references: list[ReferencePlace]
    judge: JudgeCounts | None
    domains: AgainstDomains | None = None


class CleanReference(Result):
    """The clean reference.

    Attributes:
        name: Its files.
        bundled: Whether it is the one that comes with personavec.
        samples: Their number.
        drawn: How many the model itself answered.
    """

    name: str
    bundled: bool
    samples: int
    drawn: int


class ScreeningRun(Run):
    """A screening.

    Attributes:
        engine: Name and version of what ran the model.
        data: The files.
        format: Of the data.
        records: All of them ("read" in the file), the sum of kept, flagged and rejected.
        kept, flagged, rejected: Records that went into the file of that name.
        baseline: What answers were compared with.
        truncated: Samples whose end did not fit the model's context.
        generated: Own answers that were generated in the attempt that finished, and not read from the cache.
        drawn: Samples that the model itself answered.
        prompts: How many different prompts the samples have. Intervals count prompts, not samples.
        clean: The clean reference.
        traits: Findings by trait.
        verdict: Sentences on what was found.
        warnings: Sentences on what limits the figures.
        seconds: Of the attempt that finished.
        resumed: Whether another attempt was cut off before.
    """

    COMMAND = "screen"
    SCHEMA = 3
    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    engine: str
    data: str
    format: str
    records: int = Field(validation_alias="read", serialization_alias="read")
    kept: int
    flagged: int
    rejected: int
    baseline: Baseline
    truncated: int
    generated: int
    drawn: int
    prompts: int
    clean: CleanReference
    traits: dict[str, TraitFindings]
    verdict: list[str]
    warnings: list[str]
    seconds: float
    resumed: bool

    @property
    def settings(self) -> ScreenSettings:
        """What decided the result: `arguments`, typed."""
        return TypeAdapter(ScreenSettings).validate_python(self.arguments)


class Histogram(Result):
    """Shares of samples per bin; what lies outside the edges is in the end bins.

    Attributes:
        edges: (bins + 1) projection differences.
        data, clean: (bins) shares of the data's and of the reference's samples, 0..1.
    """

    edges: list[float]
    data: list[float]
    clean: list[float]


class TokenExample(Result):
    """A sample with the tokens that carry its projection.

    Attributes:
        place: Where it stands along the trait.
        where: File and line.
        difference: Projection difference along the trait.
        z: The same in deviations from the mean of clean samples.
        flagged: By this trait.
        asked: Beginning of what was asked last.
        tokens: Text of each token and its projection, in deviations of all tokens shown for the trait.
    """

    place: Standing
    where: str
    difference: float
    z: float
    flagged: bool
    asked: str
    tokens: list[tuple[str, float]]


class ListedSample(Result):
    """A row of the table of samples far from clean.

    Attributes:
        where: File and line.
        asked, answered: Beginnings of what was asked last and of what was answered.
        flagged: By any trait.
        z: Projection difference in deviations from the mean of clean samples, by trait.
    """

    where: str
    asked: str
    answered: str
    flagged: bool
    z: dict[str, float]


class SampleViews(Result):
    """What the page shows of single samples.

    Attributes:
        histograms: By trait.
        examples: By trait.
        rows: The samples farthest from clean, the farthest first.
    """

    histograms: dict[str, Histogram]
    examples: dict[str, list[TokenExample]]
    rows: list[ListedSample]


class MovedSample(Result):
    """A sample whose rank moved between two screenings.

    Attributes:
        id, source, line: Of the sample.
        first, second: Its projection difference in each.
    """

    id: str
    source: str | None
    line: int
    first: Number
    second: Number


class TraitComparison(Result):
    """Two screenings along one trait.

    Attributes:
        spearman: Rank correlation of the differences; None: a single sample.
        flagged_both, flagged_first, flagged_second: Samples.
        agreement: Share of samples with the same flag, 0..1.
        moved: The samples whose rank moved most.
    """

    spearman: Number | None
    flagged_both: int
    flagged_first: int
    flagged_second: int
    agreement: Number
    moved: list[MovedSample]


class ScreeningComparison(Result):
    """Two screenings of the same data.

    Attributes:
        differ: Arguments that are not the same, of the first and of the second.
        samples: In both.
        only_first, only_second: Samples in one only.
        traits: By trait.
    """

    differ: dict[str, tuple[JsonValue, JsonValue]]
    samples: int
    only_first: int
    only_second: int
    traits: dict[str, TraitComparison]
