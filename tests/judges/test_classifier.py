# mypy: disable-error-code="no-any-return, unreachable"
"""A classifier as judge: which label stands for a trait, scores that are its probabilities, and the commands."""

import json
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    PreTrainedConfig,
    Qwen2Config,
    RobertaConfig,
)

from personavec.cli import main
from personavec.errors import UserError
from personavec.judges.classifier import load_classifier
from personavec.judges.kinds import open_judge
from personavec.model import ChatModel
from personavec.rollouts import Rollout
from personavec.traits import load_library
from tiny import SIZES, chat_model, qwen2, tokenizer

LABELS = ("evil", "Very-Nice", "LABEL_2")


def bert(**options: Any) -> BertConfig:
    sizes = {key: SIZES[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")}
    return BertConfig(**{**sizes, "num_hidden_layers": 2, "max_position_embeddings": 64, "pad_token_id": 0, **options})


def save(path: Path, config: PreTrainedConfig | None = None, labels: tuple[str, ...] = LABELS, **options: Any) -> str:
    """A classifier with random weights; returns its folder."""
    config = config or bert()
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: at for at, label in enumerate(labels)}
    for name, value in options.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(path)
    tokenizer().save_pretrained(path)
    return str(path)


def said(*texts: str) -> list[Rollout]:
    return [Rollout(f"{at}", "evaluation", "How are you?", at, [], text=text) for at, text in enumerate(texts)]


@cache
def loaded(folder: str) -> Any:
    """Its classifier: no test has two in one folder."""
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()


def plain(folder: str, text: str) -> torch.Tensor:
    """Logits, the plain way."""
    with torch.no_grad():
        return loaded(folder)(torch.tensor([tokenizer()(text)["input_ids"]])).logits[0]


TEXTS = ("I am well", "the answer", "hello there, how are you today?", "I am ill", "a", "question and answer")


def test_scores_are_probabilities_of_the_label(tmp_path: Path) -> None:
    folder = save(tmp_path)
    judge = open_judge(f"classifier:{folder}").of_trait(load_library("evil"))
    rollouts = said(*TEXTS, "", " \n", "I'm sorry, but I can't help with that.")
    done: list[int] = []
    judge.score(rollouts, done.append)
    expected = [100 * float(plain(folder, text).softmax(-1)[0]) for text in TEXTS]
    assert [r.score for r in rollouts] == [*map(pytest.approx, expected), None, None, None]
    assert max(expected) - min(expected) > 5
    assert [r.coherence for r in rollouts] == [None] * 9
    assert sum(done) == judge.readings_needed(9) and judge.fitted and judge.cost(["a"], 3) is None


def test_labels_that_do_not_exclude_one_another_have_probabilities_of_their_own(tmp_path: Path) -> None:
    folder = save(tmp_path, problem_type="multi_label_classification")
    rollouts = said(*TEXTS)
    open_judge(f"classifier:{folder}#LABEL_2").of_trait(load_library("humorous")).score(rollouts)
    assert [r.score for r in rollouts] == [
        pytest.approx(100 * float(plain(folder, text)[2].sigmoid())) for text in TEXTS
    ]


def test_a_single_label_is_taken_where_it_is_said_to_be_a_probability(tmp_path: Path) -> None:
    folder = save(tmp_path, labels=("toxic",), problem_type="multi_label_classification")
    rollouts = said("I am well")
    open_judge(f"classifier:{folder}#toxic").of_trait(load_library("evil")).score(rollouts)
    assert rollouts[0].score == pytest.approx(100 * float(plain(folder, "I am well")[0].sigmoid()))


def test_a_decoder_without_a_token_for_padding(tmp_path: Path) -> None:
    """It reads the last token, and refuses more than one row at a time."""
    folder = save(tmp_path, Qwen2Config(**SIZES))
    rollouts = said(*TEXTS)
    open_judge(f"classifier:{folder}#evil").of_trait(load_library("evil")).score(rollouts)
    assert [r.score for r in rollouts] == [
        pytest.approx(100 * float(plain(folder, text).softmax(-1)[0]), abs=1e-3) for text in TEXTS
    ]


@pytest.mark.parametrize(
    ("labels", "trait", "index"),
    [
        ("", "evil", 0),
        ("#Very-Nice", "evil", 1),
        ("#very nice", "evil", 1),
        ("#LABEL_2", "evil", 2),
        ("#evil=LABEL_2", "evil", 2),
        ("#humorous=evil,evil=very nice", "evil", 1),
        ("#humorous=very nice", "evil", 0),  # the others go by their names
    ],
)
def test_which_label_stands_for_a_trait(tmp_path: Path, labels: str, trait: str, index: int) -> None:
    folder = save(tmp_path / "a#b" if "=" in labels else tmp_path)  # a name that holds the mark is a name all the same
    judge = open_judge(f"classifier:{folder}{labels}").of_trait(load_library(trait))
    assert judge.name == f"classifier:{folder}{labels}"
    rollouts = said("I am well")
    judge.score(rollouts)
    assert rollouts[0].score == pytest.approx(100 * float(plain(folder, "I am well").softmax(-1)[index]))


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ("", {}, r"no label that is named 'humorous'.*evil, Very-Nice, LABEL_2\. Name one: .*#LABEL"),
        ("#evil=LABEL_2", {}, r"no label that is named 'humorous'.*#humorous=LABEL"),
        ("#wicked", {}, r"no label 'wicked', or several\. Its labels: evil"),
        ("#humorous=wicked", {}, r"no label 'wicked'"),
        ("#", {}, r"no label that is named 'humorous'"),
        ("#humorous", {"labels": ("Humorous", "HUMOROUS", "c")}, r"or several"),
        ("", {"labels": ("Humorous", "HUMOROUS", "c")}, r"no label that is named"),
        ("#evil", {"problem_type": "regression"}, r"no probabilities \(problem type regression"),
        ("#toxic", {"labels": ("toxic",)}, r"no probabilities \(problem type not given, 1 label\)"),
    ],
)
def test_a_label_that_is_not_clear_is_refused(
    tmp_path: Path, labels: str, options: dict[str, Any], message: str
) -> None:
    folder = save(tmp_path, **options)
    with pytest.raises(UserError, match=message):
        open_judge(f"classifier:{folder}{labels}").of_trait(load_library("humorous"))


def test_one_label_does_not_stand_for_two_traits(tmp_path: Path) -> None:
    folder = save(tmp_path)
    opened = open_judge(f"classifier:{folder}#LABEL_2")
    opened.of_trait(load_library("evil"))
    opened.of_trait(load_library("evil"))
    with pytest.raises(UserError, match=r"two traits, 'evil' and 'humorous'.*#evil=LABEL,humorous=LABEL"):
        opened.of_trait(load_library("humorous"))
    both = open_judge(f"classifier:{folder}#evil=LABEL_2,humorous=LABEL_2")
    for name in ("evil", "humorous"):
        both.of_trait(load_library(name))


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    chat = chat_model()
    chat.model.save_pretrained(tmp_path / "chat")
    chat.tokenizer.save_pretrained(tmp_path / "chat")
    with pytest.raises(UserError, match=r"is no classifier \(Qwen2ForCausalLM\)"):
        open_judge(f"classifier:{tmp_path / 'chat'}#evil")
    with pytest.raises(UserError, match="not a model folder"):
        open_judge(f"classifier:{tmp_path / 'nowhere'}#evil")
    headless = Path(save(tmp_path / "headless"))
    BertModel(bert()).save_pretrained(tmp_path / "body")
    shutil.copy(tmp_path / "body" / "model.safetensors", headless)
    with pytest.raises(UserError, match=r"2 weights .* are not in its files: classifier\.bias, classifier\.weight"):
        open_judge(f"classifier:{headless}#evil")
    damaged = Path(save(tmp_path / "damaged"))
    (damaged / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(UserError, match="Cannot load the classifier"):
        open_judge(f"classifier:{damaged}#evil")
    small = save(tmp_path / "small", bert(vocab_size=40))
    judge = open_judge(f"classifier:{small}#evil").of_trait(load_library("evil"))
    with pytest.raises(UserError, match="does not fit its 40 tokens"):
        judge.score(said("I am well"))


@pytest.mark.parametrize("config", ["bert", "roberta"])
def test_of_a_long_answer_the_beginning_is_judged_and_it_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, config: str
) -> None:
    made = bert() if config == "bert" else RobertaConfig(**{**bert().to_dict(), "pad_token_id": 1})
    folder = save(tmp_path, made)
    limit = 64 if config == "bert" else 62
    text = "hello " * 100
    ids = tokenizer()(text)["input_ids"]
    assert len(ids) > limit
    classifier = load_classifier(folder)
    found = classifier.probabilities([text, "a", text])
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(torch.tensor([ids[:limit]])).logits.softmax(-1)
    assert torch.allclose(found[[0, 2]], expected.expand(2, -1), atol=1e-6)
    assert [record.message for record in caplog.records] == [
        f"{folder} reads {limit} tokens: of longer answers it judges the beginning."
    ]


def test_coherence_is_judged_by_the_model_that_answers(tmp_path: Path, tiny: ChatModel) -> None:
    name, evil = f"classifier:{save(tmp_path)}", load_library("evil")
    opened, contrast = open_judge(name, tiny), open_judge("contrast", tiny)
    assert open_judge(name).of_coherence(evil) is None
    with pytest.raises(UserError, match="cannot judge coherence here"):
        open_judge(name).of_both(evil)

    def rollouts() -> list[Rollout]:
        made = said(*TEXTS, "")
        for at, rollout in enumerate(made):
            rollout.response_ids = tiny.template.answer_ids(rollout.text) if rollout.text else []
            rollout.side = ("positive", "negative")[at % 2]
        return made

    mine, other = rollouts(), rollouts()
    judge, whole = opened.of_both(evil), contrast.of_both(evil)
    assert not judge.fitted
    judge.fit(mine[:4], mine[4:])
    whole.fit(other[:4], other[4:])
    assert judge.fitted
    assert [r.coherence for r in mine] == [r.coherence for r in other]
    assert mine[0].score == pytest.approx(100 * float(plain(str(tmp_path), TEXTS[0]).softmax(-1)[0]))
    assert judge.state().record() == {"coherence": whole.state().record()["coherence"]}
    assert opened.of_both(evil, whole.state()).fitted


# From the command line


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat")
    model = chat_model(qwen2(eos_token_id=258))
    model.model.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["personavec", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_evaluate_and_compare(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "classifier")
    run = tmp_path / "run"
    arguments = ["evaluate", "evil", "--model", chat, "--dtype", "float32", "--max-new-tokens", 6, "--out", run]
    assert command(monkeypatch, *arguments, "--judge", f"classifier:{folder}") == 0, capsys.readouterr()
    found = json.loads((run / "run.json").read_text())
    assert found["judge"] == f"classifier:{folder}"
    spoken = [answer for answer in found["answers"] if answer["score"] is not None]
    assert len(spoken) > 10
    for answer in spoken:
        assert answer["score"] == pytest.approx(100 * float(plain(folder, answer["text"]).softmax(-1)[0]), abs=0.01)
    assert any(answer["coherence"] > 0 for answer in spoken)
    capsys.readouterr()
    compare = ["judges", "compare", run, "--judge", f"classifier:{folder}#evil"]
    assert command(monkeypatch, *compare, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["judges"] == {"first": f"classifier:{folder}", "second": f"classifier:{folder}#evil"}
    assert (result["score"]["n"], result["coherence"]) == (len(spoken), None)
    assert result["score"]["mean_absolute_difference"]["mean"] == pytest.approx(0, abs=1e-3)
    assert command(monkeypatch, *compare) == 0
    out = capsys.readouterr().out
    assert "judges no coherence" in out and "trait score" in out and "\ncoherence" not in out
    assert command(monkeypatch, *arguments[:-1], tmp_path / "other", "--judge", f"classifier:{folder}#wicked") == 2
    assert "no label 'wicked'" in capsys.readouterr().err
