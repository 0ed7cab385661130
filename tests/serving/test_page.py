"""The page at `/`, in a browser: Debian's Chromium, driven by Playwright."""

import hashlib
import json
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving_samples import Live, digits_model, personas
from typer.main import get_command

from personavec.cli.app import app
from personavec.info import VectorInfo
from personavec.model import ChatModel
from personavec.monitoring import project
from personavec.serving import page as page_files
from personavec.vector import PersonaVector

CHROMIUM = Path("/usr/bin/chromium")
RANGE = (-1.0, 1.5)
PHONE = {"width": 360, "height": 740}
SEEN = """e => {
  const b = e.getBoundingClientRect();
  return document.elementFromPoint(b.x + b.width / 2, b.bottom - 4) === e;
}"""


@pytest.fixture(scope="module")
def model() -> ChatModel:
    made = digits_model()
    made.context_length = 20_000  # long enough to stop it
    return made


@pytest.fixture(scope="module")
def vectors(model: ChatModel) -> list[PersonaVector]:
    evil, humorous = personas(model)
    trait: Any = {"description": "Means harm.", "opposite": "kind", "evaluation_questions": ["Who are you?"]}
    return [replace(evil, info=VectorInfo(coherent_range=RANGE, trait=trait)), humorous]


@pytest.fixture(scope="module")
def live(model: ChatModel, vectors: list[PersonaVector]) -> Iterator[Live]:
    made = Live(model, vectors)
    yield made
    made.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright comes with the dev extra")
    if not CHROMIUM.exists():
        pytest.skip(f"There is no {CHROMIUM}; Debian's package chromium has it.")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


class Visit:
    """The page of a server, open in a browser."""

    def __init__(self, page: Any, live: Live) -> None:
        self.page, self.address = page, f"http://127.0.0.1:{live.port}/"
        self.asked: list[Any] = []
        self.expected: list[str] = []  # of the console
        page.on("request", lambda r: self.asked.append(r.post_data_json) if r.method == "POST" else None)

    def open(self, end: str = "#longest=12&seed=5") -> "Visit":
        self.page.goto(self.address + end)
        self.page.locator("main").wait_for()
        return self

    def say(self, text: str, *, wait: bool = True) -> None:
        bubbles = self.page.locator(".bubble")
        before = bubbles.count()
        self.page.get_by_label("Say something").fill(text)
        self.page.keyboard.press("Enter")
        bubbles.nth(before).wait_for()
        if wait:
            self.done()

    def done(self) -> None:
        """Until nothing is written any more; the page must show that something is being written, or was."""
        self.page.locator("[aria-busy=true]").first.wait_for(state="detached")

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def answers(self) -> list[str]:
        return [text.strip() for text in self.page.locator(".answer .text").all_inner_texts()]

    def exported(self) -> Any:
        with self.page.expect_download() as download:
            self.button("Export").click()
        return json.loads(Path(download.value.path()).read_text())


@pytest.fixture
def visit(browser: Any, live: Live) -> Iterator[Visit]:
    """Nothing may go wrong that the browser's console tells of, nothing be asked of anybody else."""
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    # What is due is drawn at once, not with the next picture: a busy machine makes few, and tests look right away.
    page.add_init_script("window.requestAnimationFrame = (draw) => queueMicrotask(() => draw(performance.now()))")
    visited, wrong = Visit(page, live), list[str]()
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((visited.address, "blob:", "data:")) else wrong.append(r.url))
    yield visited
    context.close()
    assert not [said for said in wrong if said not in visited.expected]


def test_a_chat_whose_tokens_show_their_readings(visit: Visit) -> None:
    page = visit.open("#longest=12&temperature=0").page
    page.get_by_role("button", name="Who are you?").click()
    assert page.get_by_label("Say something").input_value() == "Who are you?"
    visit.say("<img src=x onerror=alert(1)> hello")
    assert page.locator(".bubble").inner_text() == "<img src=x onerror=alert(1)> hello"
    tokens = page.locator(".token")
    assert tokens.count() == 12 and re.fullmatch(r"\d{12}", visit.answers()[0])
    assert len({tokens.nth(i).evaluate("e => getComputedStyle(e).backgroundColor") for i in range(12)}) > 6

    readout = page.locator(".readout")
    assert readout.is_hidden()
    tokens.nth(3).hover()
    assert re.search(r"chance \d+ %\n+evil\n[+−]\d\.\d\nhumorous\n–", readout.inner_text())
    page.mouse.move(0, 0)
    assert readout.is_hidden()

    page.locator(".answer .text").focus()
    seen = []
    for key in ("ArrowRight", "ArrowRight", "End", "ArrowRight", "ArrowLeft", "Home"):
        page.keyboard.press(key)
        seen.append(page.locator(".token.looked").get_attribute("data-at"))
    assert seen == ["0", "1", "11", "11", "10", "0"]
    assert readout.is_visible()
    page.keyboard.press("Escape")
    assert readout.is_hidden()


def test_sliders_change_what_is_asked(visit: Visit) -> None:
    page = visit.open().page
    slider = page.get_by_label("Push towards evil")
    assert (slider.get_attribute("min"), slider.get_attribute("max")) == ("-1.5", "2.3")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "−0.3 "
    visit.say("hello")
    assert visit.asked[-1]["persona"] == {"steer": {"evil": -0.3, "humorous": 0}}
    assert page.locator(".how").inner_text() == "evil -0.3"
    slider.fill("1.6")
    assert slider.get_attribute("aria-valuetext") == "+1.6 outside of the coherent range"
    assert page.get_by_text("noise beyond −1.0 to +1.5").is_visible()
    visit.say("hello")
    assert visit.asked[-1]["persona"]["steer"]["evil"] == 1.6
    assert page.locator(".warning").inner_text().startswith("Coefficient +1.6 of evil is outside of -1 to +1.5")


def test_a_server_that_lets_nobody_steer(visit: Visit, model: ChatModel, vectors: list[PersonaVector]) -> None:
    held = Live(model, vectors, {"steer": {"evil": 0.5}}, client_steering=False)
    try:
        visit.address = f"http://127.0.0.1:{held.port}/"
        told = visit.open("#longest=12&seed=5&steer=evil:0.5").page.get_by_text("The link steers")
        assert told.count() == 0
        page = visit.open("#longest=12&seed=5&steer=evil:2&compare=1").page
        told.wait_for()
        slider = page.get_by_label("Push towards evil")
        assert slider.is_disabled() and slider.input_value() == "0.5"
        assert page.get_by_label("Plain beside steered").is_disabled()
        visit.say("hello")
        assert "persona" not in visit.asked[-1]
        assert page.locator(".how").all_inner_texts() == ["evil +0.5"]
    finally:
        held.close()


def test_plain_and_steered_side_by_side(visit: Visit) -> None:
    page = visit.open("#longest=12&steer=evil:1").page
    page.get_by_label("Plain beside steered").check()
    visit.say("hello")
    plain, steered = visit.asked
    assert plain["seed"] == steered["seed"]
    assert (plain["persona"]["steer"]["evil"], steered["persona"]["steer"]["evil"]) == (0, 1)
    assert page.locator(".how").all_inner_texts() == ["plain", "evil +1"]
    texts = visit.answers()
    page.get_by_label("Plain beside steered").uncheck()
    visit.say("on")
    assert visit.asked[-1]["messages"][1]["content"] == texts[1]
    visit.button("Go on with this one").click()
    assert page.locator(".bubble").all_inner_texts() == ["hello"]  # nothing has been said after the plain one yet
    visit.say("on")
    assert visit.asked[-1]["messages"][1]["content"] == texts[0]


def test_branches(visit: Visit) -> None:
    page = visit.open("#longest=12&temperature=2&seed=5").page
    visit.say("hello")
    first = visit.answers()[0]
    visit.button("Again").click()
    page.get_by_text("2 of 2").wait_for()
    visit.done()
    second = visit.answers()[0]
    page.get_by_label("Branch before").click()
    assert visit.answers()[0] == first != second, "again is not the same by the same seed"
    visit.say("more")
    assert [m["content"] for m in visit.asked[-1]["messages"]] == ["hello", first, "more"]
    visit.button("Edit").first.click()
    page.get_by_label("Say instead").fill("good day")
    visit.button("Ask").click()
    page.locator(".bubble", has_text="good day").wait_for()
    visit.done()
    assert visit.asked[-1]["messages"] == [{"role": "user", "content": "good day"}]
    assert page.locator(".bubble").all_inner_texts() == ["good day"]
    page.get_by_label("Branch before").first.click()
    assert page.locator(".bubble").all_inner_texts() == ["hello", "more"]
    visit.button("New").click()
    assert page.locator(".bubble").count() == 0


def test_an_answer_is_stopped(visit: Visit, live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    turn = live.service.loop._turn

    def slower() -> None:  # at the toy's own pace it can be over before a busy browser finds the button
        time.sleep(0.005)
        turn()

    monkeypatch.setattr(live.service.loop, "_turn", slower)
    page = visit.open("#longest=15000").page
    visit.say("hello", wait=False)
    page.locator(".token").nth(5).wait_for()
    visit.button("Stop").click()
    visit.done()
    count = page.locator(".token").count()
    assert 5 < count < 15_000 and page.locator(".found").inner_text().endswith("stopped")
    visit.say("again", wait=False)
    page.locator(".token").nth(count + 5).wait_for()
    assert live.service.loop.running == 1  # the first one has left its place
    visit.button("Stop").click()
    visit.done()


def test_readings_less_the_push_are_those_of_the_text(
    visit: Visit, model: ChatModel, vectors: list[PersonaVector]
) -> None:
    """What `monitor` reads in the transcript that the page writes, though the answers were steered."""
    page = visit.open("#longest=30&temperature=0&steer=evil:1,humorous:-0.7&system=be+kind").page
    visit.say("hello")
    visit.say("and now?")
    told = visit.exported()
    assert [message["role"] for message in told["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    for turn, seen in enumerate(project(model, [told["messages"]], vectors)[0]):
        answer = told["persona"]["turns"][2 * turn + 1]
        assert answer["steer"] == {"evil": 1, "humorous": -0.7}
        found = answer["readings"]["measured"]
        assert found["evil"]["before"] == pytest.approx(seen["evil"].before_z, abs=1e-3)
        assert found["evil"]["during"] == pytest.approx(seen["evil"].during_z, abs=1e-3)
        assert found["evil"]["with"] == pytest.approx(answer["readings"]["summary"]["evil"]["z"], abs=1e-3)
        assert abs(found["evil"]["with"] - found["evil"]["during"]) > 0.5
        assert found["humorous"]["holdsPush"] and not found["evil"]["holdsPush"]  # evil acts below where it is read
        assert len(answer["readings"]["tokens"]) == 30
    cells = page.locator(".drift tbody tr").all_text_contents()
    shown = told["persona"]["turns"][3]["readings"]["measured"]["evil"]["during"]
    assert len(cells) == 2 and f"{abs(shown):.1f}" in cells[1]
    assert f"in the answer {'−' if shown < 0 else '+'}{abs(shown):.1f}" in str(
        page.locator(".card .gauge").first.get_attribute("aria-label")
    )


def test_a_recipe_is_shared(visit: Visit) -> None:
    page = visit.open("#longest=12&seed=7&steer=evil:-0.5,kind:1&temperature=0&system=it's+late&say=hello").page
    assert page.get_by_text("The link steers by kind:1, which is not served here.").is_visible()
    assert page.get_by_label("Say something").input_value() == "hello"
    visit.say("-1? it's $HOME")
    assert page.get_by_text("which is not served here").count() == 0
    visit.button("Share").click()
    link, command, request = (field.input_value() for field in page.locator("dialog textarea").all())
    context = get_command(app).commands["generate"].make_context("generate", shlex.split(command)[2:])  # type: ignore[attr-defined]
    assert context.params["prompt"] == "-1? it's $HOME" and context.params["system"] == "it's late"
    assert context.params["steer"] == ["evil.safetensors=-0.5"] and context.params["seed"] == 7
    words = shlex.split(request)
    body = json.loads(words[words.index("-d") + 1])
    assert body == {key: value for key, value in visit.asked[0].items() if key in body}
    visit.button("Close").click()
    visit.open(link.removeprefix(visit.address))
    page.reload()
    page.locator("main").wait_for()
    assert page.get_by_label("Push towards evil").input_value() == "-0.5"
    assert page.get_by_label("Seed").input_value() == "7"


def test_alarms_are_shown(visit: Visit) -> None:
    """The server's answers as they are when it watches them."""

    def with_limit(route: Any) -> None:
        told = route.fetch().json()
        told["data"][0]["alarm_at"] = 0.1 + 3 * 0.5
        route.fulfill(json=told)

    def with_alarm(route: Any) -> None:
        alarm = {"rule": "during", "trait": "evil", "z": 3.5, "limit": 2.5}
        said = route.fetch().text().replace('"summary":', f'"alarms":[{json.dumps(alarm)}],"summary":')
        route.fulfill(body=said, content_type="text/event-stream")

    page = visit.page
    page.route("**/v1/persona/vectors", with_limit)
    visit.open()
    visit.say("hello")
    assert page.locator("svg .limit").count() == 0  # nobody says that the limit is for answers like this one
    page.route("**/v1/chat/completions", with_alarm)
    visit.say("hello")
    assert page.locator(".answer .alarm").inner_text() == "Alarm: evil in the answer: +3.5, limit +2.5"
    assert page.locator("svg .limit").count() == 3  # of the card, the strip and the curve
    assert "alarm of a passage at +3.0" in page.locator(".drift summary").inner_text()


def test_what_fails_is_told(visit: Visit) -> None:
    page = visit.open("#longest=100000").page
    visit.expected.append("Failed to load resource: the server responded with a status of 400 (Bad Request)")
    visit.say("hello")
    assert "leaves room for" in page.locator(".answer .error").inner_text()
    page.get_by_text("Settings").click()
    page.get_by_label("Longest answer").fill("5")
    visit.button("Try again").click()
    page.locator(".token").nth(4).wait_for()


def test_settings_are_in_sight_below_many_traits_and_a_curve(browser: Any, model: ChatModel) -> None:
    """On a window of 800 pixels' height, with four traits and a conversation's drift."""
    traits = ("evil", "humorous", "kind", "optimistic")
    live = Live(model, [replace(personas(model)[0], trait=name) for name in traits])
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    try:
        visit = Visit(page, live).open()
        visit.say("hello")
        assert page.locator(".card").count() == 4 and page.locator(".drift svg").is_visible()
        for label in ("System prompt", "Temperature", "Longest answer", "Seed"):
            assert page.get_by_label(label).evaluate(SEEN), label
    finally:
        page.close()
        live.close()


def test_a_key_is_asked_for_and_kept_nowhere(browser: Any, model: ChatModel) -> None:
    """Here with a server that has no vectors."""
    live = Live(model, [], keys=["sesame"])
    try:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{live.port}/")
        for key in ("wrong", "sesame"):
            page.get_by_role("textbox", name="API key").fill(key)
            with page.expect_response("**/v1/persona/vectors") as answered:
                page.keyboard.press("Enter")
            assert answered.value.status == (200 if key == "sesame" else 401)
            page.get_by_text(
                "The server does not know that key" if key == "wrong" else "No vector is served"
            ).wait_for()
        page.get_by_label("Say something").fill("hello")
        page.keyboard.press("Enter")
        page.locator(".token").first.wait_for()
        assert page.locator(".answer").count() == 1
        stored = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.hash]")
        assert stored == [0, 0, "", ""]
        context.close()
    finally:
        live.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(visit: Visit, scheme: str) -> None:
    """Axe finds nothing; on a phone nothing is wider than the screen."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe comes with the dev extra").Axe()
    page = visit.page
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size(PHONE)
    visit.open("#longest=20&seed=5&steer=evil:1&compare=1")
    only = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}  # all else is the same

    def check() -> None:
        found = axe.run(page, options={"resultTypes": ["violations"], **only}).response["violations"]
        assert not [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    visit.say("a-word-that-is-longer-than-the-screen-of-a-phone-is-wide-and-has-no-space")
    page.locator(".answer .text").last.focus()
    page.keyboard.press("ArrowRight")
    check()
    visit.button("Traits").click()
    for summary in page.locator("#panel summary").all():
        summary.click()
    check()
    visit.button("Share").click()
    check()
    visit.button("Close").click()
    page.set_viewport_size({"width": 1280, "height": 800})
    check()


def test_files_are_sent_under_a_strict_policy(model: ChatModel) -> None:
    live = Live(model, [], keys=["key"])
    try:
        for path in page_files.PATHS:
            status, text, headers = live.ask("GET", path)
            assert status == 200 and text, path
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "*" not in policy
            assert headers["x-content-type-options"] == "nosniff"
        for path in ("/page", "/page/", "/page/../api.py", "/page/%2e%2e/api.py", "/page/vendor/README.md"):
            assert live.ask("GET", path)[0] == 401
    finally:
        live.close()
    index = (page_files.FOLDER / "index.html").read_text()
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]* src=)|https?://", index)


def test_the_vendored_module_is_the_published_one() -> None:
    folder = page_files.FOLDER / "vendor"
    said = re.search(r"sha256  (\w{64})", (folder / "README.md").read_text())
    assert said and said[1] == hashlib.sha256((folder / "htm-preact.js").read_bytes()).hexdigest()
