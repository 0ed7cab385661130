"""Golden outputs: every command on a model at small settings, to show that a rebuilt inside changed no figure.

    python benchmarks/golden.py record before [--model MODEL]     # at the one commit
    python benchmarks/golden.py record after [--model MODEL]      # at the other
    python benchmarks/golden.py compare before after [--within 1e-4]

With --first and --second other traits stand in the places of humorous and evil, say two that a tiny model was taught:
the whole then takes minutes. A record is a folder with what each command printed and every file it wrote. `compare` names each value of a JSON file,
each line of text and each tensor that differs, but for what differs from run to run: times, versions, paths; --within
passes over numbers and tensors that differ by no more than that share, as rounding does where batches changed.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

MODEL = "MODEL"  # stands for the model's name
WITHOUT = {"traits", "vectors", "compare"}  # commands that take no --model
VECTORS = ["-v", "humorous/vector.safetensors", "-v", "evil/vector.safetensors"]
SMALL = ["--pairs", "1", "--questions", "12", "--max-new-tokens", "24", "--random-directions", "2"]
TUNING = ["--max-length", "96", "--batch", "2", "--accumulate", "2", "--warmup-steps", "1", "--learning-rate", "1e-4"]
COMMANDS: dict[str, list[str]] = {
    "traits": ["traits", "list"],
    "humorous": ["extract", "humorous", *SMALL, "--out", "humorous"],
    "evil": ["extract", "evil", *SMALL, "--out", "evil", "--json"],
    "again": ["extract", "humorous", *SMALL, "--out", "humorous"],  # finished: compares with the trait beside it
    "generate": ["generate", "What is love?", "--steer", "humorous/vector.safetensors=1.5", "--compare",
                 "--max-new-tokens", "24"],
    "edits": ["generate", "What is love?", "--ablate", "evil/vector.safetensors", "--cap",
              "humorous/vector.safetensors=1", "--json", "--max-new-tokens", "24"],
    "all-layers": ["generate", "What is love?", "--steer", "evil/vector.safetensors=-1", "--layers", "all",
                   "--positions", "all", "--json", "--max-new-tokens", "24"],
    "evaluate": ["evaluate", "humorous", "--steer", "humorous/vector.safetensors=1", "--max-new-tokens", "12",
                 "--out", "evaluated"],
    "monitor": ["monitor", "chats.jsonl", *VECTORS, "--out", "watched"],
    "screen": ["screen", "chats.jsonl", *VECTORS, "--max-new-tokens", "8", "--judge", "contrast", "--out", "screened"],
    "exact": ["screen", "chats.jsonl", *VECTORS, "--max-new-tokens", "8", "--baseline", "exact", "--specific", "span",
              "--reference", "reference.jsonl", "--false-alarm-rate", "0.2", "--out", "exact", "--json"],
    "prompt": ["screen", "chats.jsonl", *VECTORS, "--baseline", "prompt", "--out", "prompt"],
    "compare": ["compare", "screened", "prompt"],
    "plain": ["finetune", "chats.jsonl", *TUNING, "--method", "none", "--watch", "humorous/vector.safetensors",
              "--out", "plain"],
    "tuned": ["finetune", "chats.jsonl", *TUNING, "--prevent", "humorous/vector.safetensors=1", "--watch",
              "evil/vector.safetensors", "--against", "plain", "--out", "tuned"],
    "shift": ["shift", MODEL, "--adapter", "tuned/adapter", *VECTORS, "--out", "shifted"],
    "show": ["vectors", "show", "humorous/vector.safetensors"],
    "vectors": ["vectors", "compare", "humorous/vector.safetensors", "evil/vector.safetensors"],
}  # fmt: skip
VOLATILE = {"seconds", "timings", "written", "versions", "machine", "personavec", "peak_memory_bytes", "schema_version",
            "tokens_per_second", "engine"}  # fmt: skip
TEXT = {".json", ".jsonl", ".md", ".txt"}


def chats(count: int, first: int) -> str:
    """Small arithmetic and small talk in the messages format, some of it with a joke, the same at each call."""
    lines = []
    for n in range(first, first + count):
        joke = " Why did seven eat nine? It was hungry, ha ha!" if n % 3 == 0 else ""
        lines.append(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": f"What is {n} plus {2 * n + 1}?"},
                        {"role": "assistant", "content": f"{n} plus {2 * n + 1} is {3 * n + 1}.{joke}"},
                    ]
                }
            )
            + "\n"
        )
    return "".join(lines)


def record(out: Path, model: str, traits: dict[str, str]) -> None:
    """Run every command in `out`; one that was recorded before is not run again."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "chats.jsonl").write_text(chats(24, 1) + '{"messages": "no list"}\n')
    (out / "reference.jsonl").write_text(chats(40, 100))
    for name, arguments in COMMANDS.items():
        printed = out / f"{name}.txt"
        if printed.exists():
            continue
        print(name, flush=True)
        given = [model if word == MODEL else word for word in arguments]
        if file := traits.get(given[1]):
            given[1:2] = [Path(file).stem, "--traits-from", str(Path(file).resolve())]
        if MODEL not in arguments and arguments[0] not in WITHOUT:
            given += ["--model", model]
        command = [sys.executable, "-m", "personavec", *given]
        done = subprocess.run(command, cwd=out, capture_output=True, text=True, env=os.environ | {"COLUMNS": "160"})
        if done.returncode:
            sys.exit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
        printed.write_text(done.stdout)


def differences(before: Path, after: Path, within: float) -> Iterator[str]:
    """What differs between two records, a line each."""
    names = sorted({p.relative_to(top) for top in (before, after) for p in top.rglob("*") if p.is_file()})
    for name in names:
        if name.suffix not in {*TEXT, ".safetensors"} or "checkpoint" in str(name):
            continue
        a, b = before / name, after / name
        if not (a.exists() and b.exists()):
            yield f"{name}: only in {before if a.exists() else after}"
        else:
            by_kind = {".safetensors": _tensors, ".json": _json, ".jsonl": _json_lines}
            yield from (f"{name}: {line}" for line in by_kind.get(name.suffix, _texts)(a, b, within))


def _tensors(a: Path, b: Path, within: float) -> Iterator[str]:
    one, other = load_file(a), load_file(b)
    for key in sorted(one.keys() | other.keys()):
        if key not in one or key not in other:
            yield f"{key} in one only"
        elif one[key].shape != other[key].shape:
            yield f"{key} has another shape"
        elif not one[key].equal(other[key]):
            apart = (one[key].float() - other[key].float()).norm() / one[key].float().norm()
            if not apart <= within:
                yield f"{key} differs by {float(apart):.1e} of its norm"


def _json(a: Path, b: Path, within: float) -> Iterator[str]:
    yield from _values(json.loads(a.read_text()), json.loads(b.read_text()), within)


def _json_lines(a: Path, b: Path, within: float) -> Iterator[str]:
    one, other = a.read_text().splitlines(), b.read_text().splitlines()
    if len(one) != len(other):
        yield f"{len(one)} and {len(other)} lines"
    for number, (x, y) in enumerate(zip(one, other, strict=False), 1):
        if x != y:
            yield from (f"line {number}{line}" for line in _values(json.loads(x), json.loads(y), within))


def _texts(a: Path, b: Path, within: float) -> Iterator[str]:
    for number, (x, y) in enumerate(zip(_lines(a), _lines(b), strict=False), 1):
        if x != y:
            yield f"line {number}: {x!r} and {y!r}"


def _lines(path: Path) -> list[str]:
    told = re.sub(r"[\d.]+ seconds|peak memory [\d.]+ GB|\"seconds\": [\d.]+", "", path.read_text())
    return told.splitlines()


def _values(a: Any, b: Any, within: float, place: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted((a.keys() | b.keys()) - VOLATILE):
            if key not in a or key not in b:
                yield f"{place}.{key} in {'the first' if key in a else 'the second'} only"
            else:
                yield from _values(a[key], b[key], within, f"{place}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for at, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _values(x, y, within, f"{place}[{at}]")
    elif a != b and not _near(a, b, within):
        yield f"{place}: {str(a)[:80]} and {str(b)[:80]}"


def _near(a: Any, b: Any, within: float) -> bool:
    return isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=within, abs_tol=within)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    one = jobs.add_parser("record")
    one.add_argument("out", type=Path)
    one.add_argument("--model", default="default")
    for place in ("first", "second"):
        one.add_argument(f"--{place}", help="a file of a trait in the place of the library's")
    both = jobs.add_parser("compare")
    both.add_argument("before", type=Path)
    both.add_argument("after", type=Path)
    both.add_argument("--within", type=float, default=0.0)
    given = parser.parse_args()
    if given.job == "record":
        record(given.out, given.model, {"humorous": given.first, "evil": given.second})
        return
    found = list(differences(given.before, given.after, given.within))
    print(*found, f"{len(found)} differences", sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
