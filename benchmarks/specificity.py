"""Other people's data, one pair of sets at a time: how far can a difference be called a difference in one trait?

    python benchmarks/specificity.py NAME=DATA,AGAINST... [--layer N] [--samples N] [--write]

For each pair: the AUC per sample of DATA against AGAINST (whose questions are the same, or whose answers are what would
be wished for) along all seven library traits' directions; then with what is shared taken out (the other six, length,
refusing), and whitened by the clean reference. Beside each stand 200 random directions with the covariance of the
rollouts, treated alike: a figure that they reach too tells nothing of the trait.

A direction is the difference of means of answers under positive and negative instructions, at one layer for all, and not
filtered by a judge: hallucinating would not pass one on the default model, but a direction it has. Readings are those of
the given answers alone. Kept in a cache: made once, they are not made again.
"""

import argparse
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import arguments, publish
from personavec import ChatModel, load_model
from personavec.cache import cache_folder
from personavec.data import Sample, open_data
from personavec.engine.transformers import TransformersEngine
from personavec.errors import UserError
from personavec.files import JsonLines
from personavec.projection import CLEAN
from personavec.projection.common import refusal_readings
from personavec.projection.measure import readings, tokenise
from personavec.projection.specific import Whitening, length_direction, refusal_direction, remove_span
from personavec.readout import read
from personavec.rollouts import conversation, generate, plan
from personavec.screening.attribution import separation
from personavec.stats.nulls import covariance_directions
from personavec.traits import library_names, load_trait

QUESTIONS, PAIRS, NEW_TOKENS = 10, 2, 64  # of the rollouts behind a direction
CLEAN_SAMPLES = 96
RANDOM = 200


def sides(model: ChatModel, trait: str, layer: int) -> tuple[Tensor, Tensor]:
    """Readings (n, d) of answers under positive and under negative instructions."""
    given = load_trait(trait)
    rollouts = [
        one
        for pair in range(PAIRS)
        for side, system in zip(("positive", "negative"), given.system_prompts(pair), strict=True)
        for one in plan(
            model, "extraction", given.extraction_questions[:QUESTIONS], system=system, pair=pair, side=side
        )
    ]
    log = JsonLines(cache_folder() / "benchmarks" / f"specificity-{trait}.jsonl")
    generate(model, rollouts, log, description=f"Rollouts, {trait}", max_new_tokens=NEW_TOKENS)
    spoken = [one for one in rollouts if one.response_ids]
    means = read(model, [conversation(model, one) for one in spoken], layers=[layer]).means.view(len(spoken), 3, -1)
    at = [torch.tensor([one.side == side for one in spoken]) for side in ("positive", "negative")]
    return means[at[0], 2], means[at[1], 2]


def answers(engine: TransformersEngine, samples: list[Sample], layer: int) -> tuple[Tensor, Tensor]:
    """Readings (n, d) of the samples' answers, and the logs of their lengths in tokens (n,)."""
    tokens = [tokenise(engine, sample, "last").conversations for sample in samples]
    lengths = torch.tensor([sum(e - s for c in mine for s, e in c.spans[1::2]) for mine in tokens])
    return readings(engine, tokens, [layer]).answers[:, 0], lengths.log1p()


def samples_of(path: Path | str, count: int) -> list[Sample]:
    return list(islice((record for record in open_data(path) if isinstance(record, Sample)), count))


def main() -> None:
    """Read everything once, and print a row for each pair of sets and trait."""
    parser = arguments("How specific are directions on other people's data?", model=True)
    parser.add_argument("pairs", nargs="+", metavar="NAME=DATA,AGAINST", type=_pair)
    parser.add_argument("--layer", type=int, default=14)
    parser.add_argument("--samples", type=int, default=100, help="of each set")
    options = parser.parse_args()
    model = load_model(options.model)
    engine, layer = TransformersEngine(model), options.layer
    traits = library_names()
    both = {trait: sides(model, trait, layer) for trait in traits}
    units = {
        trait: torch.nn.functional.normalize(positive.mean(0) - negative.mean(0), dim=0)
        for trait, (positive, negative) in both.items()
    }
    rollouts = torch.cat([side for pair in both.values() for side in pair])[:, None]
    names = [f"{trait} {side}" for trait, pair in both.items() for side, rows in enumerate(pair) for _ in rows]
    random = covariance_directions(rollouts, names, RANDOM, 0)[:, 0]
    clean = samples_of(CLEAN, CLEAN_SAMPLES)
    answering, lengths = answers(engine, clean, layer)
    common = [
        length_direction(answering, lengths),
        refusal_direction(refusal_readings(engine, clean, [layer])[:, 0], answering),
    ]

    whitening = Whitening(answering)

    def treated(way: str, direction: Tensor, without: str | None) -> tuple[Tensor, float] | None:
        if way == "raw":
            return torch.nn.functional.normalize(direction, dim=0), 1.0
        if way == "whiten":
            return whitening(direction)
        try:
            return remove_span(direction, torch.stack([*(u for t, u in units.items() if t != without), *common]))
        except UserError:
            return None

    rows = []
    read_before: dict[Path, Tensor] = {}
    for name, data, against in options.pairs:
        for path in (data, against):
            if path not in read_before:
                read_before[path] = answers(engine, samples_of(path, options.samples), layer)[0]
        mine, theirs = read_before[data], read_before[against]
        for trait in traits:
            row = [name, trait]
            for way in ("raw", "span", "whiten"):
                made = treated(way, units[trait], trait)
                draws = [one[0] for d in random if (one := treated(way, d, trait)) is not None]
                if made is None:
                    row.append("nothing remains")
                    continue
                apart = separation(
                    *((side @ made[0]).double().numpy() for side in (mine, theirs)),
                    *((side @ torch.stack(draws).T).double().numpy() for side in (mine, theirs)),
                )
                null = np.array([apart.null.mean, apart.null.p95])
                row.append(
                    f"{apart.auc.mean:.2f} [{apart.auc.low:.2f}, {apart.auc.high:.2f}] "
                    f"({null[0]:.2f}, {null[1]:.2f}; p = {apart.place.p_value:.2f})"
                )
            rows.append(row)
    publish(
        "specificity",
        "How specific directions are on other people's data",
        ["data", "direction", "AUC", "AUC, span removed", "AUC, whitened"],
        rows,
        [
            "AUC per sample with its 95 % interval; in parentheses the mean and the 95th percentile of "
            f"{RANDOM} random directions with the rollouts' covariance, treated alike and free to choose their sign, and "
            "the share of them that separate at least as well.",
            f"Layer {layer}; at most {options.samples} samples a set; directions from {QUESTIONS} questions under {PAIRS} "
            f"pairs of instructions, answers of at most {NEW_TOKENS} tokens, not filtered. Span: the other six directions, "
            f"length and refusing; whitened by {CLEAN_SAMPLES} clean samples.",
        ],
        options.write,
        model.device,
        timed=False,
    )


def _pair(text: str) -> tuple[str, Path, Path]:
    name, _, paths = text.partition("=")
    data, _, against = paths.partition(",")
    if not (name and data and against):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DATA,AGAINST")
    return name, Path(data), Path(against)


if __name__ == "__main__":
    main()
