"""Work spread over a Ray cluster on this machine: workers, nodes and the process that asks are killed."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from children import Child
from personavec.cli import main
from personavec.engine import Engine
from personavec.engine.choice import open_engine
from personavec.engine.transformers import TransformersEngine
from personavec.errors import UserError
from personavec.model import ChatModel, Conversation
from personavec.model.checkpoint import open_checkpoint
from personavec.screening import scan
from tiny import vector

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'personavec[ray]'")
from ray.cluster_utils import Cluster  # noqa: E402

from personavec.engine.cluster import RayEngine  # noqa: E402


@pytest.fixture(autouse=True)
def forwards_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here as in the workers, which know nothing of what tests change: rounding depends on it."""
    monkeypatch.setattr("personavec.readout.CPU_TOKENS", 1024)


@pytest.fixture(scope="module")
def folder(tiny: ChatModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, where workers find it."""
    path = tmp_path_factory.mktemp("model")
    tiny.model.save_pretrained(path)
    tiny.tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a node that may be killed, with room for a worker each. Workers have one thread."""
    settings = {
        "RAY_AUTH_MODE": "disabled",
        # As many as the tests' own process: rounding depends on it. Left to Ray, a worker has as many as it reserves.
        "OMP_NUM_THREADS": "1",
        # Left to Ray, workers wait for everything else that runs here, and the death of a node is noticed late.
        "RAY_worker_niceness": "0",
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
    }
    few = {"num_cpus": 1, "include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        made = Cluster(initialize_head=True, head_node_args=few)
        made.killable = made.add_node(num_cpus=1)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def spread(cluster: Any, folder: Path) -> RayEngine:
    make = partial(open_engine, "transformers", str(folder), dtype="float32")
    return RayEngine(cluster.address, make, open_checkpoint(str(folder)), 2)


def conversations(count: int) -> list[Conversation]:
    random = Random(0)
    made = []
    for _ in range(count):
        length = random.randint(6, 20)
        made.append(Conversation([random.randrange(300) for _ in range(length)], [(1, 3), (4, length)]))
    return made


def test_same_readings_and_answers(spread: RayEngine, tiny: ChatModel) -> None:
    alone = TransformersEngine(tiny)
    texts, directions = conversations(75), torch.randn(2, 3, tiny.hidden_size, generator=torch.manual_seed(0))
    torch.testing.assert_close(spread.read(texts, [1, 3]), alone.read(texts, [1, 3]))
    torch.testing.assert_close(spread.read(texts, [1, 3], directions), alone.read(texts, [1, 3], directions))
    prompts = [c.ids for c in texts]
    assert spread.answer(prompts, 5) == alone.answer(prompts, 5)
    assert spread.width == 2 and "2 workers of ray" in spread.version
    assert {**spread.identity, "model": alone.identity["model"]} == alone.identity  # its folder is its name
    assert spread.context_length == alone.context_length


def test_both_workers_work_and_items_are_taken_as_there_is_room(spread: RayEngine) -> None:
    taken, start = 0, time.monotonic()
    pids: set[int] = set()

    def items() -> Iterator[int]:
        """Twelve, and more for as long as the second worker still opens its model (ten minutes at most)."""
        nonlocal taken
        while taken < 12 or (len(pids) < 2 and time.monotonic() < start + 600):
            taken += 1
            yield taken

    def who(engine: Engine, item: int) -> int:
        time.sleep(0.1)
        return os.getpid()

    for done, (_, pid) in enumerate(spread.each(who, items()), 1):
        assert taken <= done + 2 * spread.width
        pids.add(pid)
    assert len(pids) == 2


def test_a_killed_worker_and_a_killed_node_are_replaced_and_nothing_is_lost_or_twice(
    spread: RayEngine, cluster: Any, tmp_path: Path
) -> None:
    """Both at once, so that nobody is left; who comes in their place works on, also on a node that came late."""
    head, marker = cluster.head_node.node_id, tmp_path / "died"
    taken, start, found = 0, time.monotonic(), []
    workers: list[tuple[str, int]] = []

    def items() -> Iterator[int]:
        """Until there were four workers (ten minutes at most)."""
        nonlocal taken
        while len(set(workers)) < 4 and time.monotonic() < start + 600:
            taken += 1
            yield taken

    def work(engine: Engine, item: int) -> tuple[int, str, int]:
        time.sleep(0.3)  # every item costs the cluster some work, and hundreds may be needed until all have come
        node = ray.get_runtime_context().get_node_id()
        if item > 8 and node == head and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item * item, node, os.getpid()

    for item, (square, node, pid) in spread.each(work, items()):
        found.append((item, square))
        workers.append((node, pid))
        if len(found) == 8:
            cluster.remove_node(cluster.killable, allow_graceful=False)
        elif len(set(workers)) == 3 and cluster.killable not in cluster.worker_nodes:
            cluster.killable = cluster.add_node(num_cpus=1)
    assert sorted(found) == [(i, i * i) for i in range(1, taken + 1)]
    assert len(set(workers)) == 4 and len({node for node, _ in workers}) == 3
    assert marker.exists()


def test_a_mistake_comes_back_as_itself(spread: RayEngine) -> None:
    def wrong(engine: Engine, item: int) -> int:
        raise UserError("This is wrong.", "Do that.")

    with pytest.raises(UserError) as error:
        list(spread.each(wrong, range(5)))
    assert (error.value.problem, error.value.advice) == ("This is wrong.", "Do that.")
    assert list(spread.each(lambda engine, item: item, [1])) == [(1, 1)]


@pytest.fixture
def room(cluster: Any) -> Any:
    """The cluster without the workers of the tests before."""
    ray.shutdown()
    return cluster


def test_a_worker_that_always_dies_ends_the_run(room: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personavec.engine.cluster.PATIENCE", 2)  # of three, for time

    def die() -> Engine:
        os._exit(1)

    with pytest.raises(UserError, match="2 workers died one after another"):
        RayEngine(room.address, die, open_checkpoint(str(folder)), 1)


@pytest.fixture
def given(tiny: ChatModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a screening of 520 samples."""
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))
    vector(tiny).save(tmp_path / "kind.safetensors")
    random = Random(1)
    words = ["the", "model", "answers", "question", "hello", "there", "you", "today"]
    with (tmp_path / "data.jsonl").open("w") as data:
        for _ in range(520):
            asked, said = (" ".join(random.choices(words, k=4)) for _ in range(2))
            data.write(f'{{"prompt": "{asked}", "response": "{said}"}}\n')
        data.write("{broken\n")
    return [
        "screen", str(tmp_path / "data.jsonl"), "-v", str(tmp_path / "kind.safetensors"), "--model", str(folder),
        "--max-new-tokens", "4", "--device", "cpu",
    ]  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, code: int = 0) -> None:
    monkeypatch.setattr("sys.argv", ["personavec", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == code


def in_parts(*arguments: str) -> None:
    """The command line, in a process of its own, with fourteen parts in place of two."""
    scan.PART = 40
    sys.argv = ["personavec", *arguments]
    main()


def test_a_screening_whose_process_and_then_a_node_are_killed(
    given: list[str], room: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread = [*given, "--ray", room.address, "--out", str(tmp_path / "spread")]

    def parts() -> set[str]:
        return {path.name for path in (tmp_path / "spread" / "parts").glob("part-*.parquet")}

    def until_a_part_is_written(workers: int) -> Child:
        before = parts()
        process = Child(in_parts, *spread, "--workers", str(workers))
        process.until(lambda: not parts() <= before)
        assert process.poll() is None, process.communicate()
        return process

    killed = until_a_part_is_written(1)
    killed.kill()
    killed.communicate()
    again = until_a_part_is_written(2)
    room.remove_node(room.killable, allow_graceful=False)
    _, said = again.communicate()
    assert again.returncode == 0, said
    monkeypatch.setattr(scan, "PART", 40)  # rounding depends on it
    run(monkeypatch, *given, "--out", str(tmp_path / "alone"))
    for name in ("kept.jsonl", "flagged.jsonl", "rejected.jsonl"):
        assert (tmp_path / "spread" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    ours, alone = (pq.read_table(tmp_path / name / "scores.parquet").to_pandas() for name in ("spread", "alone"))
    assert list(ours["id"]) == list(alone["id"]) and list(ours["flagged"]) == list(alone["flagged"])
    numbers = [name for name in ours if ours[name].dtype.kind == "f"]
    torch.testing.assert_close(
        torch.tensor(ours[numbers].to_numpy()), torch.tensor(alone[numbers].to_numpy()), equal_nan=True
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "--workers needs a cluster"),
        (["--ray", "local", "--workers", "0"], "--workers 0 is out of range"),
    ],
)
def test_what_cannot_be_chosen(
    options: list[str],
    message: str,
    given: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(monkeypatch, *given, "--out", str(tmp_path / "run"), *options, code=2)
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("room")  # the cluster that one is connected with is used, whatever the address
def test_no_cluster_there(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, *given, "--out", str(tmp_path / "run"), "--ray", "127.0.0.1:1", code=2)
    said = capsys.readouterr().err
    assert "No Ray cluster answers at '127.0.0.1:1'" in said and "Traceback" not in said
