"""Clean domains, each left out of the directions that it is compared along."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from personavec import PersonaVector
from personavec.projection.bank import Bank, TextSides
from personavec.projection.discriminant import Scene
from personavec.screening.against import TAIL, unseen_level, worst_domain
from personavec.screening.attribution import Corrected, auc_interval, domain_explanation
from personavec.screening.axis import Axis, text_axis
from personavec.screening.result import AgainstDomains
from personavec.stats.bootstrap import auc
from personavec.stats.estimate import Estimate
from personavec.stats.nulls import Place

WIDTH, COUNT = 24, 40
AXES = torch.eye(WIDTH)


def normal(count: int, seed: int) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def bank(odd: float = 8.0) -> Bank:
    """Two traits and three domains; "verse" lies `odd` along a coordinate of its own, and on the side of evil."""
    domains = {name: normal(20, at) + 4 * AXES[at] for at, name in enumerate(("code", "lists"))}
    domains["verse"] = normal(12, 2) + odd * AXES[2] + 3 * AXES[10]
    texts = {
        name: TextSides(normal(16, 10 + at) + 4 * AXES[10 + at], normal(16, 20 + at))
        for at, name in enumerate(("evil", "funny"))
    }
    return Bank.of(domains, texts)


def axis(trait: str, known: Bank) -> Axis:
    scene, vector = Scene.of(known), PersonaVector(trait, torch.ones(3, WIDTH), 2, {})
    whole = text_axis(vector, scene, COUNT, 0)
    left = {name: text_axis(vector, scene.without(name), COUNT, 0) for name in known.first}
    return Axis(whole.vector, whole.direction, whole.rivals, whole.treatment, 1.0, scene, whole.placebos, left)


def test_a_domain_that_is_left_out_moves_no_direction() -> None:
    here, elsewhere = axis("evil", bank()), axis("evil", bank(odd=-3.0))
    assert not here.direction.equal(elsewhere.direction)
    for made, other in ((here.left_out["verse"], elsewhere.left_out["verse"]),):
        assert made.direction.equal(other.direction) and made.rivals["funny"].equal(other.rivals["funny"])
        assert made.placebos is not None and other.placebos is not None and made.placebos.equal(other.placebos)
    assert not here.left_out["code"].direction.equal(elsewhere.left_out["code"].direction)


def test_data_of_the_trait_are_told_from_every_domain_and_others_are_not() -> None:
    drawn = torch.nn.functional.normalize(normal(COUNT, 99), dim=1)
    evil, known = axis("evil", bank()), bank()
    shown = worst_domain(evil, normal(60, 50) + 4 * AXES[10], list(range(60)), drawn, 0)
    assert shown.name == "verse" and shown.auc.mean == min(shown.aucs.values()) > 0.6
    assert shown.placebos is not None and shown.random.n == shown.placebos.n == COUNT
    assert shown.random.p_value < 0.1 and shown.p_value == max(shown.random.p_value, shown.placebos.p_value)
    assert shown.leads["funny"].low > 0
    funny = worst_domain(evil, normal(60, 50) + 4 * AXES[11], list(range(60)), drawn, 0)
    assert funny.auc.mean < 0.5 and funny.leads["funny"].high < 0
    for name, made in evil.left_out.items():
        direction = made.direction
        mine, theirs = ((rows @ direction).numpy() for rows in (normal(60, 50) + 4 * AXES[10], known.whole(name)))
        assert shown.aucs[name] == pytest.approx(auc(mine, theirs))
        low, high = auc_interval(mine, theirs)
        assert shown.auc.low <= low and auc_interval(mine, theirs, None, TAIL / 3)[1] >= high
    assert shown.auc.low < shown.auc.mean < shown.auc.high


def test_the_interval_holds_the_least_figure_of_several_domains() -> None:
    """Of seventeen domains that are all alike the lowest is too low by chance, often beyond its own interval."""
    rng, held, repeats = np.random.default_rng(0), 0, 40
    for _ in range(repeats):
        ours, others = rng.standard_normal(40), rng.standard_normal((17, 20)) - stats.norm.ppf(0.8) * 2**0.5
        low = min(auc_interval(ours, one)[0] for one in others)
        high = min(auc_interval(ours, one, None, TAIL / 17)[1] for one in others)
        held += low <= 0.8 <= high
    assert held >= 38


def test_the_level_of_unseen_domains_counts_every_domain_the_same() -> None:
    evil, known = axis("evil", bank()), bank()
    placed = []
    for name, made in evil.left_out.items():
        others = torch.cat([rows for other, rows in known.second.items() if other != name]) @ made.direction
        placed.append(((known.whole(name) @ made.direction - others.mean()) / others.std()).numpy())
    level = unseen_level(evil, 0.2)
    above = np.mean([(one > level + 1e-6).mean() for one in placed])
    assert above <= 0.2 < np.mean([(one >= level - 1e-6).mean() for one in placed]) + 1e-9
    assert level == pytest.approx(min(np.concatenate(placed), key=lambda value: abs(value - level)))
    assert level > 1.5  # "verse" leans to evil, and nothing that was made without it knows


def found(low: float = 0.8, **leads: float) -> AgainstDomains:
    place = Place(99.5, 0.01, 0.3, 200)
    return AgainstDomains(
        worst="verse", auc=Estimate(0.9, low, 0.97, 80), aucs={"verse": 0.9}, random=place, placebos=place,
        leads={name: Estimate(0.3, lead, 0.6, 80) for name, lead in leads.items()}, instead={}, unknown=3,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "p_value", "specific", "words"),
    [
        (found(funny=0.1), 0.04, True, "differ in 'evil' from every clean domain"),
        (found(funny=0.1), 0.06, False, "more than in directions that mean nothing"),
        (found(funny=-0.1, rude=0.1), 0.04, False, "more than in 'funny'."),
        (found(low=0.45), 0.04, False, "not certain that the data as a whole differ"),
    ],
)
def test_a_claim_takes_the_domain_the_nulls_and_the_other_traits(
    given: AgainstDomains, p_value: float, specific: bool, words: str
) -> None:
    said = domain_explanation("evil", given, Corrected(p_value, 7))
    assert said.specific == specific and words in said.sentences[0]
    told = any("Holm's correction over 7 traits" in sentence for sentence in said.sentences)
    assert told == (given.auc.low > 0.5)
    assert any("Unknown domain, and not flagged: 3 of the samples" in sentence for sentence in said.sentences)
