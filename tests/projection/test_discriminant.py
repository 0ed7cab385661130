"""Directions by weighted least squares, and distances from domains, against the formulas by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from personavec.projection.bank import Bank, TextSides
from personavec.projection.discriminant import (
    CLEAN,
    LACKING,
    OTHERS,
    OTHERS_LACKING,
    PENALTY,
    Discriminant,
    Familiar,
    Group,
    Scene,
    groups_against,
    placebos,
)


def normal(*shape: int, seed: int = 0, at: float = 0.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + at


@pytest.fixture
def bank() -> Bank:
    """Two traits and three domains of 24 numbers; each trait has a coordinate of its own, and so has each domain."""
    axes = torch.eye(24)
    domains = {name: normal(20, 24, seed=at) + 8 * axes[at] for at, name in enumerate(("code", "lists", "verse"))}
    texts = {
        trait: TextSides(
            normal(16, 24, seed=10 + at) + 4 * axes[10 + at] + 8 * axes[0], normal(16, 24, seed=20 + at) + 8 * axes[1]
        )
        for at, trait in enumerate(("evil", "funny"))
    }
    return Bank.of(domains, texts)


def test_it_is_ridge_regression_of_the_labels_on_weighted_rows() -> None:
    positive, groups = normal(7, 5, at=1), [Group(normal(9, 5, seed=1), 0.6), Group(normal(4, 5, seed=2, at=2), 0.3)]
    rows = torch.cat([positive, *(group.rows for group in groups)]).double().numpy()
    weights = np.repeat([1 / 7, 0.6 / 9, 0.3 / 4], [7, 9, 4]) / 1.9
    labels = np.repeat([1.0, -1.0], [7, 13])
    centred, told = rows - weights @ rows, labels - weights @ labels
    level = (weights @ centred**2).mean()
    # As least squares of rows with the penalty's own rows below them.
    design = np.vstack([centred * np.sqrt(weights)[:, None], np.sqrt(PENALTY * level) * np.eye(5)])
    wanted = np.linalg.lstsq(design, np.concatenate([told * np.sqrt(weights), np.zeros(5)]), rcond=None)[0]
    made = Discriminant(positive, groups)
    np.testing.assert_allclose(made.direction.numpy(), wanted / np.linalg.norm(wanted), atol=1e-6)
    against = (0.6 * groups[0].rows.mean(0) + 0.3 * groups[1].rows.mean(0)) / 0.9
    torch.testing.assert_close(made.contrast, (positive.mean(0) - against).double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(made(made.contrast.float()).direction, made.direction)


def test_fewer_rows_than_numbers_make_the_same_direction() -> None:
    positive, groups = normal(6, 40, at=1), [Group(normal(8, 40, seed=1), 1.0)]
    weights = torch.cat([torch.full((6,), 1 / 12), torch.full((8,), 1 / 16)]).double()
    rows = torch.cat([positive, groups[0].rows]).double()
    centred = rows - weights @ rows
    cross = (centred * weights[:, None]).T @ centred
    wanted = torch.linalg.solve(
        cross + 0.5 * cross.trace() / 40 * torch.eye(40), rows[:6].mean(0) - rows[6:].mean(0)
    )  # its length apart
    found = Discriminant(positive, groups, 0.5)
    torch.testing.assert_close(found.direction.double(), wanted / wanted.norm(), rtol=1e-5, atol=1e-6)
    assert found(normal(40)).kept == pytest.approx(float(found(normal(40)).direction @ normal(40) / normal(40).norm()))


def test_each_kind_weighs_what_it_should(bank: Bank) -> None:
    groups = groups_against(bank, "evil")
    assert [len(group.rows) for group in groups] == [16, 16, 16, 10, 10, 10]
    third = CLEAN / 3
    assert [g.weight for g in groups] == pytest.approx([LACKING, OTHERS, OTHERS_LACKING, third, third, third])
    assert groups[0].rows.equal(bank.texts["evil"].negative) and groups[1].rows.equal(bank.texts["funny"].positive)


def test_domains_and_other_traits_hardly_count(bank: Bank) -> None:
    evil = Discriminant(bank.texts["evil"].positive, groups_against(bank, "evil"))
    raw = bank.texts["evil"].positive.mean(0) - bank.texts["evil"].negative.mean(0)
    assert int(raw.abs().argmax()) in (0, 1) and int(evil.direction.argmax()) == 10
    mixed = torch.zeros(24)
    mixed[2] = mixed[15] = 1  # where a domain stands apart, and where nothing does
    treated = evil(mixed).direction
    assert treated[2].abs() < 0.6 * treated[15]


def test_a_trait_is_its_texts_in_a_chat_model_s_words_and_to_others_all_of_them(bank: Bank) -> None:
    evil = bank.texts["evil"]
    chat = {name: TextSides(sides.positive[-4:], sides.negative[-6:]) for name, sides in bank.texts.items()}
    few = replace(bank, texts={name: replace(sides, chat=chat[name]) for name, sides in bank.texts.items()})
    against = groups_against(bank, "evil")
    assert Scene.of(few).traits["evil"].direction.equal(Discriminant(evil.positive[-4:], against).direction)
    assert Scene.of(bank).traits["evil"].direction.equal(Discriminant(evil.positive, against).direction)
    assert groups_against(few, "funny")[1].rows.equal(evil.positive)
    # Placebos are drawn from what is in a chat model's words too; everything else stands against them.
    texts = few.texts
    pool = torch.cat([chat["evil"].positive, *(s.negative for s in chat.values()), chat["funny"].positive]).double()
    rest = [texts["evil"].negative, texts["funny"].negative, texts["funny"].positive, chat["evil"].positive]
    every, clean = torch.cat(rest).double(), torch.stack([rows.mean(0) for rows in few.first.values()]).double().mean(0)
    drawn = pool[torch.from_numpy(np.random.default_rng(0).permutation(len(pool))[:4])]
    weight = LACKING + OTHERS + OTHERS_LACKING
    lack = (every.sum(0) - drawn.sum(0)) / (len(every) - 4)
    wanted = drawn.mean(0) - (weight * lack + CLEAN * clean) / (weight + CLEAN)
    torch.testing.assert_close(placebos(few, "evil", 1, 0)[0], wanted)


def test_placebos_are_contrasts_of_texts_drawn_at_random(bank: Bank) -> None:
    drawn = placebos(bank, "evil", 40, seed=0)
    assert drawn.shape == (40, 24) and drawn.equal(placebos(bank, "evil", 40, seed=0))
    texts = [rows for sides in bank.texts.values() for rows in (sides.positive, sides.negative)]
    mean, clean = torch.cat(texts).mean(0), torch.stack([rows.mean(0) for rows in bank.first.values()]).mean(0)
    # On average they keep of the texts what tells them from the domains, and nothing of the trait.
    torch.testing.assert_close(
        drawn.mean(0).float(), (mean - clean) * CLEAN / (LACKING + OTHERS + OTHERS_LACKING + CLEAN), rtol=0, atol=0.35
    )
    assert float(drawn[:, 10].abs().max()) < 4


def test_distances_are_those_from_the_nearest_centre(bank: Bank) -> None:
    found = Familiar.of(bank)
    rows = bank.second["code"]
    along = (rows @ found.axes.T).numpy()
    centred = torch.cat([half - half.mean(0) for half in bank.first.values()]).double()
    whole = torch.linalg.inv(centred.T @ centred / 30)  # all 24 directions fit
    by_hand = []
    for row in rows.double():
        gaps = [row - half.double().mean(0) for half in bank.first.values()]
        by_hand.append(min(float(gap @ whole @ gap) ** 0.5 for gap in gaps))
    np.testing.assert_allclose(found.distances(along), by_hand, rtol=1e-3)
    second = torch.cat(list(bank.second.values())) @ found.axes.T
    assert found.outside(second.numpy()).sum() == 1  # of 30, at 99 in 100
    assert found.outside((40 * torch.eye(24)[[5]] @ found.axes.T).numpy()).all()


def test_what_lies_nearest_to_a_domain_of_the_users_is_told(bank: Bank) -> None:
    known = Familiar.of(Bank(bank.first, bank.second, bank.texts, frozenset({"lists"})))
    for name, rows in bank.second.items():
        assert known.near_given((rows @ known.axes.T).numpy()).mean() == (name == "lists")
    rows = bank.second["lists"]
    assert not Familiar.of(bank).near_given((rows @ known.axes.T).numpy()).any()


def test_a_scene_lists_traits_then_aspects(bank: Bank) -> None:
    scene = Scene.of(bank)
    assert scene.directions.shape == (2 + len(scene.familiar.axes), 24)
    assert scene.directions[1].equal(scene.traits["funny"].direction)
    assert set(bank.first) == set(bank.second) and len(bank.first["code"]) == len(bank.second["code"]) == 10
