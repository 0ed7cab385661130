"""What is pushed to the hub comes back as it was, with a card that says what was measured; a damaged file does not."""

import base64
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from huggingface_hub import ModelCard, constants

from personavec.cli import main
from personavec.errors import UserError
from personavec.hub import pull, push
from personavec.hub.card import card
from personavec.hub.paths import without_folders
from personavec.info import VectorInfo
from personavec.model import ChatModel
from personavec.vector import PersonaVector
from samples import extract_run
from tiny import vector

TOKEN = "hf_fake"
COMMIT = "c" * 40


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP API as pushing and pulling small files takes."""

    files: dict[str, bytes]
    created: list[dict[str, Any]]

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, body: Any = None, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            self._answer(200, {"url": f"{constants.ENDPOINT}/me/kind", "name": "me/kind"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif self.path == "/api/models/me/kind/preupload/main":
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            self._answer(200, {"files": [{"path": file["path"], **modes} for file in json.loads(body)["files"]]})
        elif self.path == "/api/models/me/kind/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{constants.ENDPOINT}/me/kind/commit/{COMMIT}"
            self._answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": url})
        else:
            self._answer(404, {"error": "not found"})

    def do_GET(self) -> None:
        start = "/me/kind/resolve/main/"
        name = self.path.removeprefix(start)
        if self.path.startswith(start) and name in self.files:
            content = self.files[name]
            self._answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', **{"X-Repo-Commit": COMMIT})
        else:
            self._answer(404, {"error": "not found"}, **{"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    """A hub without files, and a user who is logged in."""
    kind = type("Hub", (FakeHub,), {"files": {}, "created": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = f"http://127.0.0.1:{server.server_port}"
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, where)  # as HF_ENDPOINT would
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", where)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield kind
        server.shutdown()


@pytest.fixture
def file(tiny: ChatModel, tmp_path: Path) -> Path:
    """A vector with all that an extraction measures."""
    info = {name: value for name, value in extract_run().items() if name not in ("trait", "judge")}
    known = extract_run()["judge"]
    made = vector(
        tiny,
        info={**info, "judge": known, "trait": {"name": "kind", "description": "Wishes others well."}},
        residual_norm=torch.ones(tiny.n_layers + 1),
    )
    made.save(tmp_path / "kind.safetensors")
    return tmp_path / "kind.safetensors"


@pytest.mark.drawn
def test_what_is_pushed_comes_back_as_it_was(hub: type[FakeHub], file: Path, tmp_path: Path) -> None:
    pushed = push(file, "me/kind", private=True)
    assert pushed.url.endswith(f"/me/kind/commit/{COMMIT}")
    assert pushed.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert hub.created[0]["name"] == "kind" and hub.created[0]["organization"] == "me"
    assert hub.files.keys() == {"README.md", "SHA256SUMS", "dose-response.svg", "vector.safetensors"}
    assert hub.files["SHA256SUMS"] == f"{pushed.sha256}  vector.safetensors\n".encode()
    found, digest = pull("me/kind", tmp_path / "back.safetensors")
    assert digest == pushed.sha256 and (tmp_path / "back.safetensors").read_bytes() == file.read_bytes()
    assert found.identity == PersonaVector.load(file).identity


def front_matter(text: str) -> dict[str, Any]:
    return dict(ModelCard(text).data.to_dict())  # type: ignore[no-untyped-call]


def test_the_card_says_what_was_measured_and_what_was_not(hub: type[FakeHub], file: Path, tiny: ChatModel) -> None:
    sha256 = push(file, "me/kind").sha256
    text = hub.files["README.md"].decode()
    front = front_matter(text)
    assert front["library_name"] == "personavec" and "persona-vector" in front["tags"]
    assert "base_model" not in front, "the tiny model is on no hub"
    for words in (
        "Wishes others well.",
        f"`{tiny.weights_hash}`",
        "counted from 1: the output of that block",
        f"`{sha256}`",
        "(dose-response.svg)",
        "| +2 | +53 % | 75 (95 % interval 69 to 81, n = 20) |",
        "Recommended strength: coefficients up to 1. Of those tried, answers stay coherent (at least 80 % of natural) "
        "from -2 to +1.",
        "by at most 18 by any of these 8 (p = 0.11). With the style of answers held equal +12 remain.",
        "A prompt would do, and better than steering",
        "AUC 0.79 (95 % interval 0.69 to 0.89, n = 20 questions)",
        "whether it moves others as well was not measured here",
        "`personavec hub pull me/kind`",
        'pull("me/kind", "vector.safetensors")',
        "pv.steering(vector, 1)",
    ):
        assert words in text, words
    drawing = ElementTree.fromstring(hub.files["dose-response.svg"])
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg" and "var(" not in hub.files["dose-response.svg"].decode()


def test_a_vector_of_which_nothing_is_known_says_so(tiny: ChatModel) -> None:
    plain = vector(tiny)
    plain.model["id"] = "owner/some-model"  # type: ignore[index]
    text = card(plain, "me/kind", "0" * 64)
    assert front_matter(text)["base_model"] == "owner/some-model"
    assert "Nothing was measured of this file." in text and "what it does to answers was not measured" in text


@pytest.mark.parametrize("wrong", ["damaged", "cut", "unnamed", "expected"])
def test_what_does_not_fit_is_not_written(wrong: str, hub: type[FakeHub], file: Path, tmp_path: Path) -> None:
    push(file, "me/kind")
    content = hub.files["vector.safetensors"]
    expected, message = None, "has the SHA-256"
    if wrong == "damaged":
        hub.files["vector.safetensors"] = content[:-1] + bytes([content[-1] ^ 1])
    elif wrong == "cut":  # by whoever pushed it: the checksum fits
        hub.files["vector.safetensors"] = content[:-9]
        hub.files["SHA256SUMS"] = f"{hashlib.sha256(content[:-9]).hexdigest()}  vector.safetensors\n".encode()
        message = "not a whole safetensors file"
    elif wrong == "unnamed":
        hub.files["SHA256SUMS"] = b"0  other.bin\n"
        message = "should have none"
    else:
        expected = "0" * 64
    with pytest.raises(UserError, match=message):
        pull("me/kind", tmp_path / "back.safetensors", sha256=expected)
    assert not (tmp_path / "back.safetensors").exists()


def test_a_known_checksum_needs_none_from_the_hub(hub: type[FakeHub], file: Path, tmp_path: Path) -> None:
    digest = push(file, "me/kind").sha256
    del hub.files["SHA256SUMS"]
    assert pull("me/kind", tmp_path / "back.safetensors", sha256=digest.upper())[1] == digest


def test_another_file_is_not_written_over(hub: type[FakeHub], file: Path, tmp_path: Path) -> None:
    assert push(file, "me/kind").notes == ()
    out = tmp_path / "back.safetensors"
    pull("me/kind", out)
    pull("me/kind", out)  # the same again
    out.write_bytes(b"mine")
    with pytest.raises(UserError, match="There is another file at"):
        pull("me/kind", out)
    assert out.read_bytes() == b"mine"


def test_paths_of_this_machine_stay_on_it(hub: type[FakeHub], file: Path, tiny: ChatModel, tmp_path: Path) -> None:
    made, folder = PersonaVector.load(file), str(tmp_path)
    stored = made.info.as_stored()
    stored |= {
        "judge": {**extract_run()["judge"], "name": f"local:{folder}/judge"},
        "arguments": {"texts": [f"{folder}/kind.jsonl", "library"]},
        "trait": {
            "name": "kind",
            "description": "/s is what a kind person writes.",
            "writer": f"local:{folder}/writer",
        },
    }
    own = {**made.model, "id": f"{folder}/some-model+{folder}/adapter"}
    made = replace(made, model=own, info=VectorInfo.parse(stored))
    replace(made, read=made).save(file)
    pushed = push(file, "me/kind")
    assert not any(folder.encode() in content for content in hub.files.values())
    [note] = pushed.notes
    assert note == "Paths of this machine were left out: card and file call the model some-model+adapter."
    found, digest = pull("me/kind", tmp_path / "back.safetensors")
    assert digest == pushed.sha256 and found.model == {**own, "id": "some-model+adapter"}
    assert found.read is not None and found.read.model == found.model
    found.check(tiny)
    assert found.info.judge is not None and found.info.judge.name == "local:judge"
    assert found.info.arguments == {"texts": ["kind.jsonl", "library"]}
    assert found.info.trait == {
        "name": "kind", "description": "/s is what a kind person writes.", "writer": "local:writer"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("owner/some-model", "owner/some-model"),
        ("/home/me/model/", "model"),
        ("~/model.gguf", "model.gguf"),
        ("../model", "model"),
        ("C:\\me\\model", "model"),
        ("owner/some-model+/home/me/adapter", "owner/some-model+adapter"),
        ("classifier:/home/me/judge#toxic", "classifier:judge#toxic"),
        ("api:owner/judge", "api:owner/judge"),
    ],
)
def test_names_lose_the_folders_of_local_paths(name: str, public: str) -> None:
    assert without_folders(name) == public


def test_a_relative_path_is_known_by_being_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert without_folders("models/tiny") == "models/tiny", "as a hub id is written"
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    assert without_folders("models/tiny") == "tiny"


def test_what_the_hub_refuses_is_said(
    hub: type[FakeHub], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="The hub does not do this with me/other"):
        pull("me/other", tmp_path / "back.safetensors")
    with pytest.raises(UserError, match="is no name of a repository"):
        pull("me/a b", tmp_path / "back.safetensors")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="The hub does not do this with me/kind") as refused:
        push(file, "me/kind")
    assert "HF_TOKEN" in refused.value.advice


def test_the_commands(
    hub: type[FakeHub], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["personavec", "hub", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        found = capsys.readouterr()
        assert not exit.value.code, found.err
        return found.out

    shown = told("push", file, "me/kind")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"personavec hub pull me/kind --sha256 {digest}" in shown
    shown = told("pull", "me/kind", "--sha256", digest, "--out", tmp_path / "back.safetensors")
    assert "kind, layer 2 of tiny" in shown and digest in shown
    monkeypatch.chdir(tmp_path)
    found = json.loads(told("pull", "me/kind", "--json"))
    assert found["vector"] == "kind.safetensors" and PersonaVector.load(found["vector"]).trait == "kind"
    assert found["trait"] == "kind" and found["sha256"] == digest
