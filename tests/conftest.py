"""What several tests share."""

import gc
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer.main
from hypothesis import settings
from matplotlib.figure import Figure

from personavec import likelihood, readout
from personavec.capability import passages
from personavec.model import ChatModel
from tiny import chat_model

# The models of the tests are too small for more threads: here, and in the processes that tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A busy machine makes no test fail.
settings.register_profile("tests", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))
# The command line is called many times in one process; typer would build it anew for each.
setattr(typer.main, "get_command", cache(typer.main.get_command))  # noqa: B010


# The longest files begin first, so that at the end no worker is left alone with one; then by name.
LONGEST = (
    "test_jobs", "study/test_study", "engine/test_cluster", "finetune/test_job", "finetune/test_character",
    "model/test_on_the_default_model", "model/test_default_model", "screening/test_screening", "screening/test_killed",
    "screening/test_estimate", "report/test_report", "finetune/test_prevention",
)  # fmt: skip


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    names = [f"{Path(__file__).parent / name}.py" for name in LONGEST]
    places = {name: place for place, name in enumerate(names)}
    items.sort(key=lambda item: places.get(str(item.path), len(names)))


def pytest_collection_finish() -> None:
    """What was imported stays: garbage collection need not go through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def uncollected() -> Iterator[None]:
    """Every training ends with a garbage collection through all that the tests before it left, for nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accelerate.utils.memory.gc", SimpleNamespace(collect=lambda: 0))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of reference data beside the checkout; tests that need it skip where it is missing."""
    folder = Path(__file__).parents[1] / "../shared/data"
    if not folder.is_dir():
        pytest.skip("needs the reference data, which is not part of the project")
    return folder.resolve()


@pytest.fixture(autouse=True, scope="session")
def small_forwards() -> None:
    """Models so small spend their time on attention, which grows with the square of the tokens in a forward."""
    readout.CPU_TOKENS, likelihood.BATCH_TOKENS = 256, 512


@pytest.fixture
def few_passages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of the bundled passages in place of forty, for time."""
    few = passages.PASSAGES.read_text(encoding="utf-8").splitlines(keepends=True)[:4]
    (tmp_path / "passages.jsonl").write_text("".join(few), encoding="utf-8")
    monkeypatch.setattr(passages, "PASSAGES", tmp_path / "passages.jsonl")


EMPTY = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of reports are painted, but drawn as SVG only for tests marked `drawn`, for time."""
    if request.node.get_closest_marker("drawn"):
        return
    monkeypatch.setattr(Figure, "savefig", lambda self, buffer, **_: buffer.write(EMPTY))


@pytest.fixture
def unpainted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor painted, for files with many runs whose pictures others look at."""
    if not request.node.get_closest_marker("drawn"):
        monkeypatch.setattr("personavec.report.drawing._painted", lambda *_: EMPTY)


@pytest.fixture
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after a fine-tune answers have 16 tokens at most in place of 48, for time."""
    monkeypatch.setattr("personavec.finetune.character.MAX_NEW_TOKENS", 16)


@pytest.fixture(scope="session", autouse=True)
def _without_model_cards() -> Iterator[None]:
    """PEFT fills in a template for every checkpoint, which it compiles anew, for time."""
    with pytest.MonkeyPatch.context() as patch:
        if "peft" in sys.modules:
            patch.setattr("peft.PeftModel.create_or_update_model_card", lambda self, output_dir: None)
        yield


@pytest.fixture(scope="session")
def tiny() -> ChatModel:
    """A Qwen2 of three layers with random weights; not to be changed."""
    return chat_model()
