"""The fine-tuning shift: by hand, with an adapter, between checkpoints, from the command line."""

import json
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from personavec.cli import main
from personavec.errors import UserError
from personavec.model import ChatModel, load_model
from personavec.shifts.measure import compare, prompt_readings, shift
from personavec.shifts.result import ShiftNulls, TraitShift
from personavec.shifts.verdict import sentence, verdict
from personavec.stats.estimate import Estimate
from personavec.stats.nulls import Place
from personavec.traits.of_vector import questions
from personavec.vector import PersonaVector
from tiny import CHATML, chat_model, plain_states, tokenizer, vector

pytestmark = pytest.mark.usefixtures("unpainted")


@pytest.fixture(scope="module")
def humorous(tiny: ChatModel) -> PersonaVector:
    """Of a trait whose questions the library has."""
    from dataclasses import replace

    return replace(vector(tiny, layer=2), trait="humorous")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, humorous: PersonaVector) -> dict[str, Path]:
    """A model, an adapter that changes it, one that does not, and the first one merged."""
    folder = tmp_path_factory.mktemp("models")
    found = {name: folder / name for name in ("base", "adapter", "nothing", "merged")}
    made = chat_model()
    made.model.save_pretrained(found["base"])
    for name in ("nothing", "adapter"):
        adapted = get_peft_model(chat_model().model, LoraConfig(r=2, target_modules=["o_proj", "down_proj"]))
        if name == "adapter":
            torch.manual_seed(1)
            for key, parameter in adapted.named_parameters():
                if "lora_B" in key:
                    torch.nn.init.normal_(parameter, std=0.3)
        adapted.save_pretrained(str(found[name]))
    adapted.merge_and_unload().save_pretrained(found["merged"])
    for name in ("base", "merged"):
        made.tokenizer.save_pretrained(found[name])
    humorous.save(folder / "humorous.safetensors")
    return {**found, "vector": folder / "humorous.safetensors"}


def test_other_traits_are_compared_in_words_that_claim_no_test() -> None:
    at = Place(99.0, 0.01, 0.5, 200)
    nulls = ShiftNulls(isotropic=at, covariance=at)

    def told(**others: float) -> str:
        return sentence(
            "evil",
            TraitShift(
                layer=2,
                shift=Estimate(1.0, 0.8, 1.2, 20),
                neutral_deviations=None,
                nulls=nulls,
                others=others,
                systems=(),
            ),
        )

    assert told().endswith("farther than along random directions.")
    assert told(kind=0.9).endswith("on average than along other traits, a difference that is not tested.")
    assert told(kind=-1.1).endswith("along kind it moved on average as far or farther.")


def load(folders: dict[str, Path], name: str = "base", adapter: str | None = None) -> ChatModel:
    chosen = None if adapter is None else str(folders[adapter])
    return load_model(str(folders[name]), device="cpu", dtype="float32", adapter=chosen)


def test_by_hand(folders: dict[str, Path], humorous: PersonaVector) -> None:
    base, merged = load(folders), load(folders, "merged")
    found = shift(base, [humorous], merged, systems=["Be brief."])["humorous"]

    def mean(model: ChatModel, system: str | None) -> float:
        values = []
        for question in questions(humorous):
            chat = [{"role": "user", "content": question}]
            if system:
                chat.insert(0, {"role": "system", "content": system})
            states, _ = plain_states(model.model, model.blocks.layers, model.prompt_ids(chat))
            values.append(float(states[2][-1] @ humorous.unit(2)))
        return sum(values) / len(values)

    for system, given in ((None, found.shift), ("Be brief.", found.systems[0].shift)):
        assert given.mean == pytest.approx(mean(merged, system) - mean(base, system), abs=1e-3)
        assert given.low < given.mean < given.high and given.n == 20


def test_an_adapter_is_as_good_as_the_merged_model(folders: dict[str, Path], humorous: PersonaVector) -> None:
    one = shift(load(folders, adapter="adapter"), [humorous])["humorous"].shift
    other = shift(load(folders), [humorous], load(folders, "merged"))["humorous"].shift
    assert astuple(one) == pytest.approx(astuple(other), abs=1e-3) and one.mean != 0


def test_an_adapter_that_does_nothing(folders: dict[str, Path], humorous: PersonaVector) -> None:
    found = shift(load(folders, adapter="nothing"), [humorous])
    assert found["humorous"].shift.mean == 0
    assert "told from none" in verdict(found)[0]


def test_another_template_is_no_shift(
    folders: dict[str, Path], humorous: PersonaVector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = load(folders)
    base.model.save_pretrained(tmp_path / "other")
    tokenizer(CHATML.replace("assistant", "model answer")).save_pretrained(tmp_path / "other")
    other = load_model(str(tmp_path / "other"), device="cpu", dtype="float32")
    prompts = [model.prompt_ids([{"role": "user", "content": "Hello?"}]) for model in (base, other)]
    assert prompts[0] != prompts[1]
    found = shift(base, [humorous], other)["humorous"]
    assert found.shift.mean == 0 and "another chat template" in caplog.text
    other.tokenizer = SimpleNamespace(convert_ids_to_tokens=lambda ids: ["?"] * len(ids))
    with pytest.raises(UserError, match="different tokenizers"):
        shift(base, [humorous], other)


def test_a_change_along_the_vector_stands_out(tiny: ChatModel, humorous: PersonaVector) -> None:
    before = prompt_readings(tiny, [humorous])
    after = {key: some + 5 * humorous.unit(2) for key, some in before.items()}
    found = compare([humorous], before, after)
    assert found["humorous"].shift.mean == pytest.approx(5, abs=1e-3)
    assert found["humorous"].nulls.isotropic.p_value == pytest.approx(1 / 201, abs=1e-4)
    assert "more humorous" in verdict(found)[0]


def test_mistakes(tiny: ChatModel, humorous: PersonaVector) -> None:
    with pytest.raises(UserError, match="nothing to compare"):
        shift(tiny, [humorous])
    with pytest.raises(UserError, match="Two vectors are of the trait"):
        shift(tiny, [humorous, humorous], tiny)


def test_the_command(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["personavec", "shift", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, error = capsys.readouterr()
        return int(ended.value.code or 0), out, error

    given = [folders["base"], "-v", folders["vector"], "--device", "cpu", "--dtype", "float32"]
    code, out, _ = run(*given, "--adapter", folders["adapter"], "--out", tmp_path / "run", "--json")
    assert code == 0
    traits = json.loads(out)["traits"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["traits"] == traits
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(given[0], folders["merged"], *given[1:], "--system", "Be brief.")
    assert code == 0 and "under 'Be brief.'" in out and f"{traits['humorous']['shift']['mean']:+.2f}" in out
    loaded = load_model(str(folders["merged"]), device="cpu", dtype="float32")
    loaded.model.save_pretrained(tmp_path / "other")
    tokenizer(CHATML.replace("assistant", "model answer")).save_pretrained(tmp_path / "other")
    code, out, _ = run(given[0], tmp_path / "other", *given[1:], "--out", tmp_path / "third")
    assert code == 0 and "another chat template" in out and f"{traits['humorous']['shift']['mean']:+.2f}" in out
    assert "another chat template" in (tmp_path / "third" / "report.html").read_text()
    code, _, error = run(*given)
    assert code == 2 and "--adapter" in error
    monkeypatch.setattr("personavec.cli.options.open_model", None)  # mistakes are told before a model is loaded
    for wrong, message in (
        ([tmp_path / "nowhere"], "not a model folder"),
        ([folders["adapter"]], "It is an adapter"),
        (["--adapter", tmp_path / "nowhere"], "not an adapter's folder"),
        ([folders["merged"], "-v", folders["vector"]], "Two vectors are of the trait"),
    ):
        code, _, error = run(given[0], *wrong, *given[1:])
        assert code == 2 and message in " ".join(error.split())
