"""Are alarm limits still right once the model is quantised? Real questions to a server, calibration, and `watch check`.

    python benchmarks/watch_check.py --vector VECTOR ... [--questions CHATS ...] [--out FOLDER] [--write]

Limits are calibrated on the answers of the model in float32; then other questions, the same for every way, are asked of
the same model again and of rougher ones, and the limits are held against their logs. Questions are those of the library's
traits and what users first said in files of chats; every fourth conversation has three turns.
"""

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx2
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from common import arguments, publish, show_estimate
from personavec import ChatModel, load_model
from personavec.traits import library_names, load_trait
from personavec.watching.check import check_limits
from personavec.watching.job import calibrate_limits
from personavec.watching.replay import replay_log
from personavec.watching.result import Limits
from personavec.watching.settings import WatchSettings
from serve import Server, serving

CLIENTS = 8
LONGEST = 400  # characters of a question
TURNS, EVERY = ("Why is that so?", "Say it again in one sentence."), 4  # what every fourth conversation goes on with
RATES = (0.01, 0.05)
SAME, ROUNDED, FOUR_BITS, BFLOAT16 = "float32 again", "int8 weights", "4-bit weights (nf4)", "bfloat16"
SPOILT = "2-bit weights"  # so few that the limits must be wrong, or nothing can be told


def questions(files: Sequence[Path], count: int) -> list[str]:
    """Half of the library, half of the files, in an order of their own."""
    draw = random.Random(0)
    library = [q for name in library_names() for q in load_trait(name).evaluation_questions]
    chats = [
        text
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        if len(text := json.loads(line)["messages"][0]["content"]) <= LONGEST
    ]
    draw.shuffle(library)
    some = library[: count // 2] if chats else library
    found = [*some, *draw.sample(chats, min(len(chats), count - len(some)))]
    draw.shuffle(found)
    assert len(found) >= count, f"there are {len(found)} questions"
    return found[:count]


def talk(server: Server, number: int, question: str, tokens: int) -> None:
    """One conversation, which the server recognises by what was said before."""
    said: list[dict[str, str]] = []
    with httpx2.Client(base_url=server.url, timeout=600) as client:
        for turn, text in enumerate((question, *(TURNS if number % EVERY == 0 else ()))):
            said.append({"role": "user", "content": text})
            body: dict[str, Any] = {"messages": said, "max_tokens": tokens, "seed": 10 * number + turn}
            answer = client.post("/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            said.append({"role": "assistant", "content": answer.json()["choices"][0]["message"]["content"]})


def logged(
    model: str, vectors: Sequence[Path], asked: Sequence[tuple[int, str]], tokens: int, log: Path, *more: str
) -> Path:
    """The log of these conversations; one that is there already is taken as it is."""
    if log.exists():
        return log
    words = ["--other-weights", "--log", str(log), "--log-text", *more]
    with serving(model, vectors, *words) as server, ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda one: talk(server, *one, tokens), asked))
    return log


def rounded(model: ChatModel, most: int) -> None:
    """Each row of a block's weights to multiples of a scale, `most` on either side of 0: 127 as in int8."""
    for module in model.model.modules():
        if isinstance(module, torch.nn.Linear) and module is not model.model.get_output_embeddings():
            scale = module.weight.data.abs().amax(1, keepdim=True) / most
            module.weight.data = (module.weight.data / scale).round().clamp(-most, most) * scale


def ways(model: ChatModel, folder: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Names, folders and options of the models that are served."""
    plain, small, four, spoilt = (folder / name for name in ("plain", "int8", "nf4", "spoilt"))
    for place in (plain, small, four, spoilt):
        model.tokenizer.save_pretrained(place)
    model.model.save_pretrained(plain)
    yield SAME, str(plain), ("--dtype", "float32")
    yield BFLOAT16, str(plain), ("--dtype", "bfloat16")
    rounded(model, 127)
    model.model.save_pretrained(small)
    yield ROUNDED, str(small), ("--dtype", "float32")
    packed = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )  # bitsandbytes' own layers, on whatever device there is
    AutoModelForCausalLM.from_pretrained(plain, quantization_config=packed, device_map="auto").save_pretrained(four)
    yield FOUR_BITS, str(four), ()
    rounded(model, 1)
    model.model.save_pretrained(spoilt)
    yield SPOILT, str(spoilt), ("--dtype", "float32")


def main() -> None:
    parser = arguments(str(__doc__).splitlines()[0], model=True)
    parser.add_argument("--vector", type=Path, action="append", required=True)
    parser.add_argument("--questions", type=Path, nargs="*", default=[], help="files of chats, JSON lines")
    parser.add_argument("--calibrate", type=int, default=180, help="conversations")
    parser.add_argument("--check", type=int, default=90, help="conversations")
    parser.add_argument("--tokens", type=int, default=16, help="of an answer")
    parser.add_argument("--out", type=Path, help="keep logs, limits and pages here")
    options = parser.parse_args()
    asked = list(enumerate(questions(options.questions, options.calibrate + options.check)))
    normal, fresh = asked[: options.calibrate], asked[options.calibrate :]
    rows: list[list[str]] = []
    limits: dict[float, Limits] = {}
    with nullcontext(options.out) if options.out else tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        model = load_model(options.model, dtype="float32")
        for way, place, more in ways(model, folder):
            if way == SAME:
                log = logged(place, options.vector, normal, options.tokens, folder / "normal.jsonl", *more)
                limits = {
                    rate: calibrate_limits(log, folder / f"limits-{rate:g}.json", WatchSettings(rate=rate))
                    for rate in RATES
                }
                for known in limits.values():
                    rows += [
                        ["held out of the log itself", rule, f"{one.rate:g}", show_estimate(one.held_out, ".3f"), ""]
                        for rule, one in known.rules.items()
                        if rule != "traffic"  # there is one traffic, of which nothing can be held out
                    ]
            log = logged(place, options.vector, fresh, options.tokens, folder / f"{way.split()[0]}.jsonl", *more)
            for rate, known in limits.items():
                found = check_limits(log, known)
                replayed = replay_log(log, known)
                print(
                    way, rate, found.holds, *found.sentences, f"{len(replayed.alarms)} alarms", sep="\n  ", flush=True
                )
                rows += [
                    [way, rule, f"{one.promised:g}", show_estimate(one.found, ".3f"), "yes" if one.holds else "no"]
                    for rule, one in found.rules.items()
                    if rule != "traffic" or rate == RATES[0]  # its own rate is the same for both
                ]
                moved = found.drift
            rows += [
                [way, f"mean, deviation of {trait}", "0, 1",
                 f"{show_estimate(drift.mean, '+.2f')}, {show_estimate(drift.deviation, '.2f')}", ""]
                for trait, drift in moved.items()
            ]  # fmt: skip
    first = limits[RATES[0]]
    notes = [
        f"{model.id}; limits on {first.conversations} conversations of {first.answers} answers of up to {options.tokens} tokens at "
        f"temperature 1 in float32, {', '.join(first.traits)} together; then {len(fresh)} other conversations, the same for every way.",
        "Alarms: share of conversations that alarm [95 % interval]; traffic: of stretches as long as the calibration's. Holds: no more "
        "than the promise and the calibration's own chance explain. Mean and deviation: of answers, in deviations of the log that was "
        "calibrated on.",
        "int8: every row of a block's weights rounded to 255 steps, computed in float32; nf4: bitsandbytes' own 4-bit layers; 2-bit: rows rounded to -1, 0 and 1 times their largest, to see that a "
        "check can fail.",
    ]
    publish(
        "watch_check",
        "Alarm limits after quantisation",
        ["answers of", "rule", "promised", "found", "holds"],
        rows,
        notes,
        options.write,
        model.device,
        timed=False,
    )


if __name__ == "__main__":
    main()
