"""Reports: self-contained, themed, hostile text inert, whole without the parts a run lacks."""

import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from markupsafe import escape

from personavec.errors import UserError
from personavec.evaluation.page import write_evaluate_report
from personavec.evaluation.result import EvaluationRun
from personavec.extraction.page import write_extract_report
from personavec.extraction.result import ExtractionRun
from personavec.files import write_json
from personavec.finetune.page import write_finetune_report
from personavec.finetune.result import FinetuneRun
from personavec.monitoring import drift
from personavec.monitoring.drift import Scale, largest, overview
from personavec.monitoring.page import write_monitor_report
from personavec.monitoring.result import MonitorRun, WatchedConversation, WatchedVector
from personavec.report.drawing import label
from personavec.report.words import duration, facts, minus, number, signed
from personavec.shifts.page import system_names, write_shift_report
from personavec.shifts.result import ShiftRun
from samples import chats, estimate, evaluate_run, extract_run, finetune_run, monitor_run, shift_run

HOSTILE = (
    '<script>alert(1)</script><img src=x onerror="alert(2)">&lt;b&gt; "\'>{{ 7 * 7 }} $\\frac{ \x00\u202e\ud800'
    "</title></style></svg>"
)
Writer = Callable[[Any, Path], None]


def write_monitoring(made: tuple[dict[str, Any], list[dict[str, Any]]], path: Path) -> None:
    """The page of a run and its conversations."""
    run, conversations = made
    write_monitor_report(
        MonitorRun.model_validate(run), [WatchedConversation.model_validate(each) for each in conversations], path
    )


PAGES: dict[str, tuple[Writer, Any]] = {
    "extract": (write_extract_report, ExtractionRun.model_validate(extract_run())),
    "evaluate": (write_evaluate_report, EvaluationRun.model_validate(evaluate_run())),
    "monitor": (write_monitoring, (monitor_run(5), chats(5))),
    "shift": (write_shift_report, ShiftRun.model_validate(shift_run())),
    "finetune": (write_finetune_report, FinetuneRun.model_validate(finetune_run())),
}


class Page(HTMLParser):
    """Elements, attributes and ids of a page, and its text."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text, self.open = "", list[str]()
        self.feed(html)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    @property
    def ids(self) -> list[str]:
        return [value for name, value in self.attributes if name == "id"]


@pytest.fixture(scope="module", params=PAGES)
def html(request: pytest.FixtureRequest) -> str:
    """An ordinary page of each kind."""
    return ordinary(request.param)


@cache
def ordinary(kind: str) -> str:
    with TemporaryDirectory() as folder:
        return written(*PAGES[kind], Path(folder))


def written(writer: Writer, run: Any, folder: Path) -> str:
    writer(run, folder / "report.html")
    return (folder / "report.html").read_text()


@pytest.mark.drawn
def test_page_is_self_contained(html: str) -> None:
    page = Page(html)
    assert "://" not in html
    assert not page.tags.keys() & {"script", "link", "iframe", "object", "embed", "img", "base", "form"}
    assert "@import" not in html
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "src"):
            assert value.startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "default-src 'none'" in html


@pytest.mark.drawn
def test_ids_are_unique_and_references_lead_somewhere(html: str) -> None:
    page = Page(html)
    assert [i for i, count in Counter(page.ids).items() if count > 1] == []
    referred = {value[1:] for name, value in page.attributes if name == "href"} | set(
        re.findall(r"url\(#([^)]*)\)", html)
    )
    referred |= {i for name, value in page.attributes if name == "aria-labelledby" for i in value.split()}
    assert referred <= set(page.ids)


@pytest.mark.drawn
def test_colours_follow_light_dark_and_print(html: str) -> None:
    style, body = html.split("</style>", 1)
    assert "@media screen and (prefers-color-scheme: dark)" in style
    assert "@media print" in style
    assert not re.search(r"#[0-9a-f]{6}\b", body), "a plot holds a colour of its own"
    not_of_the_theme = {"--warn-page", "--strength"}
    for variable in set(re.findall(r"var\((--[\w-]+)\)", html)) - not_of_the_theme:
        assert style.count(f"{variable}:") >= 2, f"{variable} lacks a dark value"


@pytest.mark.drawn
def test_every_plot_is_described_and_scales(html: str) -> None:
    plots = re.findall(r"<svg .*?</svg>", html, re.S)
    assert plots
    for svg in plots:
        assert re.match(r'<svg viewBox="[\d. ]+" role="img" aria-labelledby="[\w -]+"><title id=', svg)
        assert re.search(r"<desc id=\"[^\"]+\">[^<]", svg)
        assert "<style" not in svg
        assert "DejaVu" not in svg


def test_extract_shows_every_part() -> None:
    html = ordinary("extract")
    assert html.count("<svg ") == 8
    assert html.count("<figcaption>") == 8
    text = Page(html).text
    for words in (
        "It beats chance.",
        "no system role",
        "Coefficient −2",
        "Not steered",
        "41",
        "n = 20",
        "seed",
        "5 min 1 s",
        "asked for in the prompt, not steered",
        "You are a humorous assistant. Be funny.",
    ):
        assert words in text
    assert text.index("In short") < text.index("What steering does")


REQUIRED = {name for name, field in ExtractionRun.model_fields.items() if field.is_required()}


@pytest.mark.parametrize("key", sorted(REQUIRED - {"schema_version", "command"}))
def test_an_extraction_without_a_part_is_refused_by_its_name(key: str, tmp_path: Path) -> None:
    run = extract_run()
    ExtractionRun.model_validate(run).write(tmp_path)
    assert ExtractionRun.read(tmp_path) == ExtractionRun.model_validate(run)
    del run[key]
    write_json(tmp_path / "run.json", run)
    with pytest.raises(UserError, match=f"run.json is damaged \\({key}: Field required"):
        ExtractionRun.read(tmp_path)


def test_extract_beside_traits_whose_effects_were_not_measured(tmp_path: Path) -> None:
    run = extract_run()
    run["specificity"]["effect"] = [[None] * 7] * 7
    page = Page(written(write_extract_report, ExtractionRun.model_validate(run), tmp_path))
    assert page.tags["svg"] == 7
    assert "How the vectors move each other's scores was not measured." in page.text


def test_extract_without_any_score(tmp_path: Path) -> None:
    run = extract_run()
    run["scores"] = {side: [row | {"score": None} for row in rows] for side, rows in run["scores"].items()}
    page = Page(written(write_extract_report, ExtractionRun.model_validate(run), tmp_path))
    assert page.tags["svg"] == 7
    assert "This run kept no scores of its rollouts." in page.text


def test_extract_of_a_first_trait_that_fails(tmp_path: Path) -> None:
    """One layer, no usable coefficient, one pair kept, nothing filtered out, no neighbour."""
    run = extract_run()
    run["layer_sweep"] = run["layer_sweep"][:1]
    run["recommended_coefficient"], run["coherent_range"] = None, [0.0, 0.0]
    run["rollouts"]["reasons"] = {}
    run["specificity"] = {"vectors": ["humorous"], "cosine": [[1.0]], "effect": [[estimate(1.0)]]}
    run["projections"] = {"positive": [1.0], "negative": [1.0], "neutral": []}
    run["steering"]["null"]["effects"] = []
    text = Page(written(write_extract_report, ExtractionRun.model_validate(run), tmp_path)).text
    assert "no positive one that was tried" in text
    assert "Every pair passed the filter" in text
    assert "There are no other vectors of this model" in text


def hostile_extract() -> dict[str, Any]:
    run = extract_run(text=HOSTILE)
    run["trait"] = {"name": HOSTILE, "description": HOSTILE, "writer": HOSTILE}
    run["examples"][0]["question"] = HOSTILE
    run["verdict"] = run["warnings"] = [HOSTILE]
    run["model"]["id"] = run["arguments"]["layer"] = run["judge"]["name"] = HOSTILE
    run["rollouts"]["reasons"] = {HOSTILE: 1}
    run["specificity"]["vectors"] = [HOSTILE, *run["specificity"]["vectors"][1:]]
    return run


def hostile_evaluate() -> EvaluationRun:
    run = evaluate_run(text=HOSTILE) | {"trait": HOSTILE, "steer": [HOSTILE], "judge": HOSTILE}
    return EvaluationRun.model_validate(run)


def hostile_monitor() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    run, conversations = monitor_run(5, vectors=1), chats(5, vectors=1, text=HOSTILE)
    run["vectors"][0]["name"] = run["model"]["id"] = HOSTILE
    run["warnings"] = [HOSTILE]
    for conversation in conversations:
        conversation["id"] = HOSTILE
        for turn in conversation["turns"]:
            for key in ("before", "during", "highest", "before_raw", "during_raw", "highest_raw"):
                turn[key] = {HOSTILE: 1.0}
    return run, conversations


def hostile_shift(run: dict[str, Any]) -> dict[str, Any]:
    """A fine-tune or a character sheet of a trait, a model and data with bad names."""
    names = {name: f"{HOSTILE}{at}" for at, name in enumerate(run["traits"])}
    run["traits"] = {names[name]: found for name, found in run["traits"].items()}
    for found in run["traits"].values():
        found["others"] = {names[name]: value for name, value in found["others"].items()}
    if run["command"] == "shift":
        run["tuned"] = HOSTILE
    else:
        run["shift"] = [{"step": 1, "shift": dict.fromkeys(names.values(), 0.5)}]
        run["projection_differences"] = {}
        run["data"] = run["format"] = HOSTILE
    run["model"]["id"] = HOSTILE
    run["verdict"] = run["warnings"] = [HOSTILE]
    for one in (*run.get("answers", ()), *run.get("prevented", ())):
        one["trait"] = HOSTILE
    return run


@pytest.mark.drawn
@pytest.mark.parametrize(
    ("writer", "run"),
    [
        (write_extract_report, ExtractionRun.model_validate(hostile_extract())),
        (write_evaluate_report, hostile_evaluate()),
        (write_monitoring, hostile_monitor()),
        (write_shift_report, ShiftRun.model_validate(hostile_shift(shift_run(text=HOSTILE)))),
        (write_finetune_report, FinetuneRun.model_validate(hostile_shift(finetune_run(text=HOSTILE)))),
    ],
)
def test_hostile_text_is_inert(writer: Writer, run: Any, tmp_path: Path) -> None:
    html = written(writer, run, tmp_path)
    page = Page(html)
    assert "<script" not in html
    assert not page.tags.keys() & {"script", "img", "b"}
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7 * 7 }}" in page.text


def test_finetune_shows_before_and_after() -> None:
    html = ordinary("finetune")
    assert html.count("<svg ") == 4
    text = Page(html).text
    for words in ("It cost nothing.", "not scored", "the preventative prompt", "of 80 samples", "1.07", "−0.4", "95"):
        assert words in text
    assert "117 trained on + 12 held out + 2 rejected = 131 read" in text
    assert text.index("In short") < text.index("What became of the character") < text.index("What was learned")


@pytest.mark.parametrize("lacking", ["coherence", "perplexity", "held_out_loss", "answers", "systems", "shift"])
def test_finetune_without_a_part(tmp_path: Path, lacking: str) -> None:
    run = finetune_run()
    run[lacking] = type(run[lacking])() if isinstance(run[lacking], list) else None
    if lacking == "systems":
        for found in run["traits"].values():
            found["systems"] = []
    Page(written(write_finetune_report, FinetuneRun.model_validate(run), tmp_path))


def test_finetune_names_the_system_prompt_of_every_score(tmp_path: Path) -> None:
    made = finetune_run()
    for found in made["traits"].values():
        found["systems"][0]["score"] = None  # every answer under the first was refused
    run = FinetuneRun.model_validate(made)
    first, second = system_names(run.systems)
    cells = written(write_finetune_report, run, tmp_path).split("<h3>Answers and data</h3>")[1].split("</table>")[0]
    assert str(escape(f"under {second}")) in cells and str(escape(f"under {first}")) not in cells


def test_finetune_that_was_not_measured(tmp_path: Path) -> None:
    run = finetune_run(traits=0) | {"perplexity": None, "answers": [], "systems": [], "loss": {
        "first": 2.0, "last": 2.0, "window": 1, "curve": [{"step": 1, "loss": 2.0}],
    }}  # fmt: skip
    html = written(write_finetune_report, FinetuneRun.model_validate(run), tmp_path)
    assert "The character was not measured." in html and html.count("<svg ") == 1


def test_evaluate_shows_scores_and_answers() -> None:
    text = Page(ordinary("evaluate")).text
    for words in (
        "How humorous is it?",
        "humorous x +1.5",
        "39",
        "35 to 43",
        "n = 19",
        "(an empty answer)",
        "to 20 questions",
    ):
        assert words in text


def test_evaluate_without_scores_or_steering(tmp_path: Path) -> None:
    run = evaluate_run() | {"steer": [], "perplexity": None, "lm_eval": None}
    run["answers"] = [answer | {"score": None} for answer in run["answers"]]
    text = Page(written(write_evaluate_report, EvaluationRun.model_validate(run), tmp_path)).text
    assert "without steering" in text
    assert "no score to any answer" in text
    assert "What it costs" not in text and "What it can do" not in text


def test_evaluate_says_how_many_answers_it_shows(tmp_path: Path) -> None:
    run = evaluate_run()
    run["answers"] *= 10
    page = written(write_evaluate_report, EvaluationRun.model_validate(run), tmp_path)
    assert "The first 100 of 200" in Page(page).text


def test_monitor_draws_the_conversations_that_drift_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "SHOWN", 3)
    html = written(write_monitoring, (monitor_run(13, vectors=1), chats(13, vectors=1)), tmp_path)
    assert len(re.findall(r'<title id="drift-\d+-title"', html)) == 3
    assert "The 3 of 13 conversations that drift most" in Page(html).text


def test_drift_counts_from_neutral_and_ranks_by_it() -> None:
    def conversation(line: int, *during: float | None) -> WatchedConversation:
        turns = [
            {
                "index": at, "role": "assistant", "text": "", "before": {"a": 0.0}, "during": {"a": z},
                "before_raw": {"a": 7.0}, "during_raw": {"a": -7.0}, "highest": {"a": z}, "highest_raw": {"a": -7.0},
            }
            for at, z in enumerate(during)
        ]  # fmt: skip
        return WatchedConversation.model_validate(
            {"id": "", "index": line, "line": line, "source": "s", "turns": turns}
        )

    scale = Scale.of([WatchedVector(name="a", layer=1, neutral_mean=0.0, neutral_deviation=1.0)])
    still, far, swinging = conversation(1, 0.5, 0.4), conversation(2, 4.0), conversation(3, -2.0, None, 3.0)
    assert [scale.drift(c) for c in (still, far, swinging)] == [0.5, 4.0, 5.0]
    assert [c.line for c in largest(scale, [still, far, swinging])] == [3, 2, 1]
    (row,) = overview(scale, [still, far, swinging])
    assert (row.above, row.share.n, row.highest, row.line, row.answer) == (2, 3, 4.0, 2, 1)
    assert row.share.low < 100 * 2 / 3 < row.share.high


def test_monitor_without_neutral_statistics(tmp_path: Path) -> None:
    run = monitor_run()
    for vector in run["vectors"]:
        vector["neutral_mean"] = vector["neutral_deviation"] = None
    text = Page(written(write_monitoring, (run, chats()), tmp_path)).text
    assert "raw projections" in text
    assert "Above +2" not in text
    run["vectors"][0]["neutral_deviation"] = 1.0
    left_out = run["vectors"][1]["name"]
    assert re.search(rf"Not shown[^.]*{left_out}", Page(written(write_monitoring, (run, chats()), tmp_path)).text)


@pytest.mark.parametrize("conversations", [[], [chats(1)[0] | {"turns": []}]])
def test_monitor_of_nothing(conversations: list[dict[str, Any]], tmp_path: Path) -> None:
    html = written(write_monitoring, (monitor_run(), conversations), tmp_path)
    assert "No conversation holds an answer" in Page(html).text


@pytest.mark.drawn
def test_pages_stay_small(html: str) -> None:
    assert len(html) < 250_000


@pytest.mark.drawn
def test_page_of_long_conversations_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "SHOWN", 2)  # of fifty
    long = chats(3, vectors=7, text="x" * 200)
    for conversation in long:
        conversation["turns"] = conversation["turns"][:1] * 300
    assert len(written(write_monitoring, (monitor_run(3, vectors=7), long), tmp_path)) < 280_000


@pytest.mark.drawn
def test_same_run_same_page(tmp_path: Path) -> None:
    run = EvaluationRun.model_validate(evaluate_run())
    assert written(write_evaluate_report, run, tmp_path) == written(write_evaluate_report, run, tmp_path)


def test_words() -> None:
    assert (signed(-0.5), signed(0.0), signed(2.0)) == ("−0.5", "0", "+2")
    assert (number(-0.2), number(-1.26, 1), number(None), number(-0.001, 2)) == ("0", "−1.3", "–", "0.00")
    assert minus("from -2 to +2, well-known, x-1") == "from −2 to +2, well-known, x-1"
    assert minus("1 (95 % interval, n = 20 samples)") == "1 (95\xa0% interval, n\xa0=\xa020 samples)"
    assert [duration(s) for s in (0.5, 42, 400, 7300)] == ["0.5 s", "42 s", "6 min 40 s", "2 h 1 min"]
    assert facts({"a_b": 1, "c": {"d": [1, 2]}, "e": None}) == [("a b", "1"), ("c, d", "1, 2")]
    assert label("a\nb\x00" + "c" * 20) == "a b " + "c" * 11 + "…"
