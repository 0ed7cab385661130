"""Other people's data, one pair of sets at a time: how far can a difference be called a difference in one trait?

    python benchmarks/specificity.py NAME=DATA,AGAINST... [--layer N] [--samples N] [--write]

For each pair: the AUC per sample of DATA against AGAINST (whose questions are the same, or whose answers are what would
be wished for) along all seven library traits' directions; then with what is shared taken out (the other six, length,
refusing), and whitened by the clean reference. Beside each stand 200 random directions with the covariance of the
texts, treated alike: a figure that they reach too tells nothing of the trait.

A direction is the difference of means of the library's texts that show the trait and of those that lack it, of the half
that vectors are made of, at one layer for all. Readings are those of the given answers' first tokens alone, as of the
texts. (Until the texts were written, directions were made of answers under instructions: specificity-default-0.5b.md.)
"""

import argparse
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import arguments, publish
from personavec import load_model
from personavec.data import Sample, open_data
from personavec.engine.transformers import TransformersEngine
from personavec.errors import UserError
from personavec.projection import CLEAN
from personavec.projection.bank import cached_readings, text_conversation
from personavec.projection.common import refusal_readings
from personavec.projection.measure import readings, tokenise
from personavec.projection.specific import Whitening, length_direction, refusal_direction, remove_span
from personavec.screening.attribution import separation
from personavec.stats.nulls import covariance_directions
from personavec.texts import TOKENS
from personavec.texts.contrastive import library_texts
from personavec.traits import library_names

DEPTH = 0.57  # of the layer that is read, where none is named
CLEAN_SAMPLES = 96
RANDOM = 200


def sides(engine: TransformersEngine, trait: str, layer: int) -> tuple[Tensor, Tensor]:
    """Readings (n, d) of texts that show a trait, and of texts that lack it."""
    texts = library_texts(trait).extract
    return (
        cached_readings(engine, [text_conversation(engine, t) for t in texts if t.side == "positive"], [layer])[layer],
        cached_readings(engine, [text_conversation(engine, t) for t in texts if t.side == "negative"], [layer])[layer],
    )


def answers(engine: TransformersEngine, samples: list[Sample], layer: int) -> tuple[Tensor, Tensor]:
    """Readings (n, d) of the samples' answers, and the logs of their lengths in tokens (n,)."""
    tokens = [tokenise(engine, sample, "last", TOKENS).conversations for sample in samples]
    lengths = torch.tensor([sum(e - s for c in mine for s, e in c.spans[1::2]) for mine in tokens])
    return readings(engine, tokens, [layer]).answers[:, 0], lengths.log1p()


def samples_of(path: Path | str, count: int) -> list[Sample]:
    return list(islice((record for record in open_data(path) if isinstance(record, Sample)), count))


def main() -> None:
    """Read everything once, and print a row for each pair of sets and trait."""
    parser = arguments("How specific are directions on other people's data?", model=True)
    parser.add_argument("pairs", nargs="+", metavar="NAME=DATA,AGAINST", type=_pair)
    parser.add_argument("--layer", type=int, help=f"default: at {DEPTH:.0%} of the depth")
    parser.add_argument("--samples", type=int, default=100, help="of each set")
    options = parser.parse_args()
    model = load_model(options.model)
    engine, layer = TransformersEngine(model), options.layer or round(DEPTH * model.n_layers)
    traits = library_names()
    both = {trait: sides(engine, trait, layer) for trait in traits}
    units = {
        trait: torch.nn.functional.normalize(positive.mean(0) - negative.mean(0), dim=0)
        for trait, (positive, negative) in both.items()
    }
    texts = torch.cat([side for pair in both.values() for side in pair])[:, None]
    names = [f"{trait} {side}" for trait, pair in both.items() for side, rows in enumerate(pair) for _ in rows]
    random = covariance_directions(texts, names, RANDOM, 0)[:, 0]
    texts_of = [torch.cat(pair) for pair in both.values()]
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
            f"{RANDOM} random directions with the texts' covariance, treated alike and free to choose their sign, and "
            "the share of them that separate at least as well.",
            f"{model.id}, layer {layer}; at most {options.samples} samples a set, {TOKENS} tokens of each; directions from "
            f"{min(map(len, texts_of))} to {max(map(len, texts_of))} texts a trait. Span: the other six directions, length "
            f"and refusing; whitened by {CLEAN_SAMPLES} clean samples.",
            "; ".join(
                f"{name}: {data.stem} ({len(read_before[data])}) against {against.stem} ({len(read_before[against])})"
                for name, data, against in options.pairs
            )
            + ".",
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
