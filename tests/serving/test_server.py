"""The server as a process: who may reach it, and how it ends."""

import http.client
import json
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from children import command
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


def test_a_server_in_a_process(tmp_path: Path) -> None:
    """Steered by default as it was told, and over when it is told to end."""
    model = chat_model()
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    replace(vector(model), trait="evil").save(tmp_path / "evil.safetensors")
    words = ["serve", "--model", tmp_path / "model", "--dtype", "float32", "--vector", tmp_path / "evil.safetensors",
             "--steer", "evil=-0.5", "--port", "0"]  # fmt: skip
    child = command(*words)
    try:
        child.until(lambda: "Ctrl-C" in child._out.read_text() if child._out.exists() else False)
        said = child._out.read_text()
        found = re.search(r"is served at http://127\.0\.0\.1:(\d+)/v1 as default\.", said)
        assert found and "Steering: evil -0.5. Read along: evil." in said
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        assert answer["persona"]["steering"] == ["evil -0.5"]
        connection.close()
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
