"""How many small faults in the numerical modules the tests notice: mutation testing with mutmut.

Faults ("mutants") are made by mutmut, which forks after the imports and runs only the tests that reach the changed
function. Three things are set otherwise than mutmut has them: functions under a decorator are changed too (the forward
of `readout` and `steer` are), sentences are not (mutants of a message's wording say little), and of a module with many
mutants a random sample is tried. mutmut needs an environment with the project and `pip install mutmut==3.8.1`.

    python benchmarks/mutation.py [--sample 60] [--write] [MODULE ...]
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.dummy import Pool
from pathlib import Path
from random import Random
from typing import Any

import libcst as cst
import mutmut.__main__ as mutmut
from hypothesis import HealthCheck, settings
from mutmut.configuration import reset_config
from mutmut.mutation import file_mutation, mutators
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

ROOT = Path(__file__).resolve().parents[1]
SEED = 0
TESTS = [
    "tests/stats", "tests/test_interventions.py", "tests/test_likelihood.py", "tests/test_readout.py",
    "tests/judges/test_contrast.py", "tests/screening/test_estimate.py", "tests/screening/test_threshold.py",
]  # fmt: skip
MODULES = [
    *(f"stats/{name}" for name in ("bootstrap", "estimate", "moments", "nulls", "numbers", "ridge", "sampling")),
    "readout", "interventions", "model/edits", "operations", "likelihood",
    "screening/estimate", "screening/threshold", "judges/contrast",
]  # fmt: skip
# Survivors that no test could or should tell from the code: part of the changed line, as it is afterwards, and why.
EXPLAINED: dict[str, dict[str, str]] = {}


def with_decorators(plain: Callable[..., bool]) -> Callable[..., bool]:
    """Functions under any decorator are mutated: mutmut's switch then stands beneath the decorators."""

    def skip(self: Any, node: cst.CSTNode) -> bool:
        return plain(self, node.with_changes(decorators=()) if isinstance(node, cst.FunctionDef) else node)

    return skip


def bare_copies(plain: Callable[..., Any]) -> Callable[..., Any]:
    """What the switch calls are functions without the decorators, which are around it already."""

    def arrange(function: cst.FunctionDef, *given: Any, **named: Any) -> Any:
        declared, nodes, assigned, names = plain(function, *given, **named)
        kinds = [d.decorator.value for d in function.decorators if isinstance(d.decorator, cst.Name)]
        if not {"staticmethod", "classmethod"} & {*kinds}:
            nodes = [nodes[0], *(node.with_changes(decorators=()) for node in nodes[1:])]
        return declared, nodes, assigned, names

    return arrange


def without_sentences(node: cst.BaseString) -> Iterable[cst.BaseString]:
    """mutmut's changes of a string, unless it is of several words."""
    return () if isinstance(node, cst.SimpleString) and " " in node.value else mutators.operator_string(node)


def sampled(plain: Callable[..., Any], count: int, modules: Sequence[str]) -> Callable[..., Any]:
    """Of every module at most so many of the mutants."""

    def collect(**given: Any) -> Any:
        mutants, by_path = plain(**given)
        chosen: list[Any] = []
        for module in modules:
            of_module = sorted((m for m in mutants if str(m[0].path) == path(module)), key=lambda m: m[1])
            chosen += Random(SEED).sample(of_module, min(count, len(of_module)))
        return chosen, by_path

    return collect


def path(module: str) -> str:
    return f"src/personavec/{module}.py"


def prepare(folder: Path, modules: Sequence[str]) -> None:
    """A copy of the project in which mutmut works, so that nothing is left in this one."""
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    lists: Mapping[str, Sequence[str]] = {
        "source_paths": ["src/"],
        "only_mutate": [path(module) for module in modules],
        "pytest_add_cli_args": ["-p", "no:xdist", "-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": TESTS,
    }
    lines = [f"{key} =\n    " + "\n    ".join(values) for key, values in lists.items()]
    lines += ["use_git_change_detection = false", "track_dependencies = false", "timeout_multiplier = 2.0"]
    (folder / "setup.cfg").write_text("[mutmut]\n" + "\n".join([*lines, "timeout_constant = 5.0"]) + "\n")


def changed(name: str) -> tuple[str, str]:
    """The lines that a mutant changes: before and after."""
    lines = get_diff_for_mutant(name).splitlines()[2:]
    before, after = ([line[1:].strip() for line in lines if line.startswith(sign)] for sign in "-+")
    return " ".join(before), " ".join(after)


def table(count: int, modules: Sequence[str]) -> str:
    """The results of a run of mutmut that has ended, in the folder it ran in."""
    rows, left = [], []
    for module in modules:
        data = mutmut.SourceFileMutationData(path=Path(path(module)))
        data.load()
        tried = {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items() if code is not None}
        survivors = [name for name, status in tried.items() if status in ("survived", "no tests", "suspicious")]
        reasons: list[str | None] = []
        for name in sorted(survivors):
            before, after = changed(name)
            why = next((why for part, why in EXPLAINED.get(module, {}).items() if part in after), None)
            reasons.append(why)
            function = name.rpartition(".")[2].partition("__mutmut")[0].lstrip("xǁ_").replace("ǁ", ".")
            left.append(f"- `{module}`, `{function}`: `{before}` → `{after}`: {why or '**not explained**'}")
        killed = len(tried) - len(survivors)
        share = f"{100 * killed / max(len(tried), 1):.0f} %"
        explained = sum(why is not None for why in reasons)
        rows.append(f"| {module} | {len(data.exit_code_by_key)} | {len(tried)} | {killed} | {share} | {explained} |"
                    f" {len(survivors) - explained} |")  # fmt: skip
    head = "| module | mutants | tried | killed | killed of tried | survivors explained | not explained |\n"
    note = f"At most {count} mutants of a module are tried, drawn with seed {SEED}; a timeout counts as killed."
    return "\n".join(["# Mutation testing: faults that the tests notice\n", head + "|---|---|---|---|---|---|---|", *rows,
                      f"\n{note} What is changed and how: `benchmarks/mutation.py`.\n", "## Survivors\n", *left, ""])  # fmt: skip


def main() -> None:

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=MODULES, metavar="MODULE")
    parser.add_argument("--sample", type=int, default=60)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()

    file_mutation.MutationVisitor._skip_node_and_children = with_decorators(
        file_mutation.MutationVisitor._skip_node_and_children
    )
    file_mutation.function_trampoline_arrangement = bare_copies(file_mutation.function_trampoline_arrangement)
    operators = [
        (kind, without_sentences if do is mutators.operator_string else do) for kind, do in mutators.mutation_operators
    ]
    file_mutation.mutation_operators = operators
    mutmut.Pool = Pool  # threads: what is patched here holds in them too
    mutmut.collect_source_file_mutation_data = sampled(
        mutmut.collect_source_file_mutation_data, asked.sample, asked.modules
    )
    # No verdict may hang on how busy the machine is, or on what was drawn.
    settings.register_profile(
        "mutation", deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    settings.load_profile("mutation")
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), asked.modules)
        os.chdir(folder)
        reset_config()  # it was read on import, elsewhere
        sys.path.insert(0, str(Path(folder, "mutants/tests")))
        mutmut._run((), 1)
        text = table(asked.sample, asked.modules)
    print(text)
    if asked.write:
        (ROOT / "benchmarks/results/mutation.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
