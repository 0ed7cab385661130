"""The server as a process: who may reach it, and how it ends."""

import http.client
import json
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from children import Child, command
from personavec.errors import UserError
from personavec.serving.server import KEY, bound, hosts_of, read_keys
from personavec.serving.voice import Voice
from tiny import chat_model, vector
from typed import exit_code


def test_another_host_needs_a_key() -> None:
    assert hosts_of("127.0.0.1", []) == ["localhost", "127.0.0.1", "[::1]"]
    assert hosts_of("0.0.0.0", ["key"]) is None
    with pytest.raises(UserError, match=r"On 0\.0\.0\.0 others can reach the server"):
        hosts_of("0.0.0.0", [])


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    path.write_text("one\n\n two \n")
    monkeypatch.setenv(KEY, "other")
    assert (read_keys(path), read_keys(None)) == (["one", "two"], ["other"])
    path.write_text("\n")
    for bad in (path, tmp_path / "none"):
        with pytest.raises(UserError, match="key"):
            read_keys(bad)


def test_a_port_that_is_taken() -> None:
    with bound("127.0.0.1", 0) as taken, pytest.raises(UserError, match=r"Nothing can be served at 127\.0\.0\.1"):
        taken.listen()
        bound("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "Error: On 0.0.0.0 others can reach the server, and no API key keeps them out.\n"
         "Name a file of keys with --api-key, or set PERSONAVEC_API_KEY; or stay on 127.0.0.1.\n"),
        (["--steer", "evil"], "Error: --steer 'evil' is not TRAIT=NUMBER."),
        (["--cap", "evil=nan"], "Error: --cap 'evil=nan' is not TRAIT=NUMBER."),
        (["--places", "0"], "Error: --places 0 is out of range."),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.delenv(KEY, raising=False)
    assert exit_code(monkeypatch, "serve", *words) == 2
    assert capsys.readouterr().err.startswith(said)


def served(child: Child) -> int:
    """The port, once it is served."""
    child.until(lambda: "Ctrl-C" in child._out.read_text() if child._out.exists() else False)
    found = re.search(r"is served at http://127\.0\.0\.1:(\d+)/v1 as default\.", child._out.read_text())
    assert found
    return int(found[1])


def ask(port: int, **fields: Any) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "temperature": 0, **fields}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def test_a_server_in_a_process(tmp_path: Path) -> None:
    """Steered by default as it was told; a file that is overwritten below it changes nothing before it starts again,
    after whatever end; and over when it is told to end."""
    model, path = chat_model(), tmp_path / "evil.safetensors"
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    one, other = (replace(vector(model, seed=seed), trait="evil") for seed in (1, 2))
    one.save(path)
    other.save(tmp_path / "other")
    words = ["serve", "--model", tmp_path / "model", "--dtype", "float32", "--vector", path, "--steer", "evil=-0.5"]
    child = command(*words, "--port", "0")
    try:
        port = served(child)
        assert "Steering: evil -0.5. Read along: evil." in child._out.read_text()
        before = json.loads(ask(port).read())["persona"]["choices"]
        path.write_bytes(b"")  # in place: what is mapped would be gone
        path.write_bytes((tmp_path / "other").read_bytes())
        answer = json.loads(ask(port).read())
        assert answer["persona"]["steering"] == ["evil -0.5"] and answer["persona"]["choices"] == before
        stream = ask(port, max_tokens=450, stream=True)
        stream.read(10)
        child.kill()
        child.communicate()
        with pytest.raises(http.client.IncompleteRead):
            while stream.read(10_000):
                pass
    finally:
        child.kill()
    child = command(*words, "--port", port)
    try:
        assert served(child) == port
        after = json.loads(ask(port).read())["persona"]["choices"]
        assert after[0]["prompt"]["evil"]["value"] != before[0]["prompt"]["evil"]["value"]
        child.send_signal(signal.SIGTERM)
        child.communicate()
        assert child.returncode == -signal.SIGTERM
    finally:
        child.kill()


def decoded(table: Mapping[int, bytes]) -> Callable[[Sequence[int]], str]:
    return lambda ids: b"".join(table[i] for i in ids).decode(errors="replace")


def test_half_a_character_waits_for_the_rest() -> None:
    table = {0: b"a", 1: b"\xe2", 2: b"\x82", 3: b"\xac", 4: b"b"}
    voice = Voice(decoded(table), [])
    assert [voice.hear(i) for i in (0, 1, 2, 3, 4, 1)] == ["a", "", "", "€", "b", ""]
    assert voice.end() == "\ufffd"
    assert voice.spoken == 6


def test_what_may_become_a_stop_string_waits() -> None:
    table = {i: letter.encode() for i, letter in enumerate("abcx")}
    voice = Voice(decoded(table), ["abc"])
    assert [voice.hear(i) for i in (3, 0, 1, 0, 1)] == ["x", "", "", "ab", ""]
    assert voice.hear(2) == "" and voice.stopped
    assert (voice.end(), voice.spoken) == ("", 3)
