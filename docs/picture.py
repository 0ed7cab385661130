"""The README's picture, of a run of `personavec extract optimistic --texts library`: one question at three pushes, and the dose-response.

    python docs/picture.py runs/optimistic [--question "My company has been bought"]

writes docs/images/steering-light.svg and steering-dark.svg. The answers are those that the run's report shows.
"""

import argparse
import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path

from personavec.extraction.chance import NULL_QUESTIONS
from personavec.extraction.given.result import Push, TextsRun

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 1000, 404
SHARES = (-0.25, 0.0, 0.25)
LEFT, RIGHT, TOP, BOTTOM = 686, 964, 92, 318  # of the chart
CHARACTERS, LINES = 76, 3  # of an answer


@dataclass(frozen=True)
class Paint:
    """Colours of one picture."""

    page: str
    card: str
    line: str
    text: str
    faint: str
    pushes: tuple[str, str, str]


PAINTS = {
    "light": Paint("#ffffff", "#f6f7f9", "#d5d9e0", "#1c2430", "#5b6676", ("#2f6fb3", "#5b6676", "#c2410c")),
    "dark": Paint("#0d1117", "#161b22", "#30363d", "#e6edf3", "#9aa5b1", ("#6cb0f5", "#9aa5b1", "#ff9a5a")),
}


def text(
    x: float, y: float, words: str, colour: str, size: float = 14, *, bold: bool = False, anchor: str = "start"
) -> str:
    """One line of text."""
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size:g}"{weight} text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"/>'


def cards(run: TextsRun, question: str, paint: Paint) -> list[str]:
    """The question and its answers."""
    example = next(one for one in run.examples if one.question.startswith(question))
    found = {answer.share: " ".join(answer.text.split()) for answer in example.answers}
    parts = [text(24, 74, f"“{example.question}”", paint.text, 13, bold=True)]
    for number, (share, colour) in enumerate(zip(SHARES, paint.pushes, strict=True)):
        y = 92 + 88 * number
        parts.append(f'<rect x="24" y="{y}" width="600" height="78" rx="8" fill="{paint.card}" stroke="{paint.line}"/>')
        parts.append(f'<rect x="24" y="{y}" width="5" height="78" rx="2.5" fill="{colour}"/>')
        parts.append(text(44, y + 44, f"{100 * share:+.0f} %" if share else "0", colour, 14, bold=True))
        lines = textwrap.wrap(found[share], CHARACTERS, max_lines=LINES, placeholder=" …")
        start = y + 44 - 9.5 * (len(lines) - 1)
        parts += [text(104, start + 19 * at, words, paint.text, 13) for at, words in enumerate(lines)]
    return parts


def chart(run: TextsRun, paint: Paint) -> list[str]:
    """Score by push, with the probe's intervals and what random directions reach."""
    pushes = sorted(run.pushes, key=lambda push: push.share)
    low, high = pushes[0].share, pushes[-1].share

    def at(share: float, score: float) -> tuple[float, float]:
        return LEFT + (share - low) / (high - low) * (RIGHT - LEFT), BOTTOM - score / 100 * (BOTTOM - TOP)

    parts = []
    for score in (0, 25, 50, 75, 100):
        _, y = at(low, score)
        parts += [line(LEFT, y, RIGHT, y, paint.line), text(LEFT - 8, y + 4, str(score), paint.faint, 11, anchor="end")]
    for push in pushes:
        x, _ = at(push.share, 0)
        parts.append(
            text(
                x, BOTTOM + 18, f"{100 * push.share:+.0f} %" if push.share else "0", paint.faint, 10.5, anchor="middle"
            )
        )
    points = " ".join("{:.1f},{:.1f}".format(*at(push.share, push.score["probe"].mean)) for push in pushes)
    parts.append(f'<polyline points="{points}" fill="none" stroke="{paint.text}" stroke-width="2"/>')
    for push in pushes:
        parts += mark(push, "probe", at, colour(push.share, paint))
        if push.score.get("contrast"):
            x, y = at(push.share, push.score["contrast"].mean)
            parts.append(
                f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{paint.page}" stroke="{paint.faint}" stroke-width="1.8"/>'
            )
    return parts


def mark(push: Push, judge: str, at: object, shade: str) -> list[str]:
    """A point and its interval."""
    assert callable(at)
    score = push.score[judge]
    (x, y), (_, top), (_, bottom) = (at(push.share, value) for value in (score.mean, score.high, score.low))
    return [line(x, top, x, bottom, shade, 2), f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{shade}"/>']


def colour(share: float, paint: Paint) -> str:
    """Of a push."""
    return paint.pushes[1 + (share > 0) - (share < 0)]


def picture(run: TextsRun, question: str, paint: Paint) -> str:
    """The whole as SVG."""
    probe = next(judge for judge in run.judges if judge.name == "probe").steering
    assert probe is not None
    n = probe.effect.n
    name = run.trait.name
    below = [
        "● probe judge, with 95 % interval; □ contrast judge",
        f"{n} questions; from −25 to +25 % {probe.effect.mean:+.0f} points [{probe.effect.low:.0f}, {probe.effect.high:.0f}]; the",
        f"strongest of {probe.null.n} random directions {max(map(abs, probe.null.effects)):.0f} ({NULL_QUESTIONS} questions).",
    ]
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="{paint.page}" stroke="{paint.line}"/>',
        text(24, 38, f"One vector, “{name}”, added to what the model is thinking", paint.text, 18, bold=True),
        text(LEFT - 22, 74, f"How {name} its answers are, by push", paint.text, 13, bold=True),
        *cards(run, question, paint),
        *chart(run, paint),
        *(text(LEFT - 22, BOTTOM + 42 + 17 * row, words, paint.faint, 11) for row, words in enumerate(below)),
        text(
            24,
            HEIGHT - 22,
            "SmolLM2-135M on a CPU. A push: a share of the residual stream’s norm. One of eight questions in the report.",
            paint.faint,
            11,
        ),
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">'
    return "\n".join(
        [
            head,
            f"<title>The same question answered at three pushes along the {name} vector, and scores by push</title>",
            *parts,
            "</svg>",
            "",
        ]
    )


def main() -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--question", default="My company has been bought")
    options = parser.parse_args()
    run = TextsRun.read(options.run)
    IMAGES.mkdir(exist_ok=True)
    for name, paint in PAINTS.items():
        (IMAGES / f"steering-{name}.svg").write_text(picture(run, options.question, paint), encoding="utf-8")


if __name__ == "__main__":
    main()
