"""Runs as the commands write them, made up."""

from typing import Any

import numpy as np

from personavec.cli.schema import run_of

TRAITS = ["apathetic", "evil", "hallucinating", "humorous", "impolite", "optimistic", "sycophantic"]


def estimate(mean: float, half: float = 5.0, n: int = 20) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def facts(command: str) -> dict[str, Any]:
    """What stands in the file of every run."""
    return {
        "schema_version": run_of(command).SCHEMA,
        "command": command,
        "personavec": "0.1.0",
        "arguments": {"pairs": 3, "questions": 20, "seed": 0, "layer": "auto"},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "machine": {"cpu": "A processor", "cores": 2, "device": "cpu"},
        "written": "2026-01-02T03:04:05+0000",
        "model": {
            "id": "example/model-0.5B", "weights": "0123456789abcdef", "template": "89abcdef", "n_layers": 24,
            "hidden_size": 896, "dtype": "bfloat16", "device": "cpu",
        },
    }  # fmt: skip


def extract_run(text: str = "Banks lend what others save.\n\n1. They pay little.") -> dict[str, Any]:
    """An extraction of a trait that works, beside six other traits, as JSON."""
    rng = np.random.default_rng(0)

    def points(**more: Any) -> list[dict[str, Any]]:
        return [
            {
                "coefficient": c, **more,
                "score": estimate(45 + 15 * c + more.get("layer", 0) * c / 4, 6),
                "coherence": estimate(97 - 3 * c * c, 3),
            }
            for c in (-2.0, -1.0, 0.0, 1.0, 2.0)
        ]  # fmt: skip

    return {
        **facts("extract"),
        "seconds": 301.2,
        "timings": {"generate": 120.0, "judge": 150.5, "read": 30.7},
        "trait": {"name": "humorous", "description": "Wants to make people laugh.", "writer": "library"},
        "rollouts": {
            "generated": 440, "extraction": 120, "kept": 56, "kept_pairs": 28,
            "reasons": {"coherence below 50": 6, "positive score not above 50": 26},
        },
        "judge": {"name": "contrast", "auc": estimate(0.81, 0.1), "threshold": 50.0, "state": {}},
        "elicitation": {
            "judge": "probe", "why": None, "told": estimate(0.6, 0.1, 40), "told_not": estimate(0.1, 0.05, 40),
            "difference": estimate(0.5, 0.1, 40), "auc": estimate(0.8, 0.1, 40), "answers": 160, "scored": 158,
        },
        "layer": 14,
        "residual_norm": 15.07,
        "vector_norm": 4.0,
        "layer_sweep": [
            p for layer in (8, 11, 14, 17) for p in points(layer=layer) if abs(p["coefficient"]) == 2
        ],
        "dose_response": [{**p, "share": p["coefficient"] * 0.265} for p in points()],
        "coherent_range": [-2.0, 1.0],
        "recommended_coefficient": 1.0,
        "spearman": estimate(0.9, 0.1),
        "projections": {
            "positive": rng.normal(2, 1.5, 20).tolist(),
            "negative": rng.normal(-2, 1.5, 20).tolist(),
            "neutral": rng.normal(-1, 1.5, 40).tolist(),
        },
        "scores": {
            side: [
                {"score": float(s), "coherence": 95.0, "kept": bool((s > 50) == (side == "positive"))}
                for s in np.clip(rng.normal(middle, 20, 60), 0, 100)
            ] + [{"score": None, "coherence": 20.0, "kept": False}]
            for side, middle in (("positive", 65), ("negative", 35))
        },
        "separation": {
            "auc": estimate(0.79, 0.1),
            "by_layer": np.linspace(0.72, 0.9, 24).tolist(),
            "null": {
                "isotropic": {"mean": 0.65, "p95": 0.80, "max": 0.86, "n": 200},
                "shuffled": {"mean": 0.62, "p95": 0.76, "max": 0.82, "n": 200},
            },
        },
        "steering": {
            "effect": estimate(41, 9), "effect_on_null_questions": 47.0, "coefficient": 2.0,
            "null": {
                "effects": [-18.3, 17.0, 18.5, 4.8, -5.7, 18.2, -10.3, -8.9], "layers": [8] * 4 + [14] * 4, "p": 0.1111,
                "mean": 12.7, "p95": 18.4, "max": 18.5, "n": 8,
            },
            "style": {
                "effect": estimate(41, 9), "remains": estimate(12, 15),
                "changes": [
                    {"name": "exclamation marks", "change": estimate(1.2, 0.4)},
                    {"name": "emoji", "change": estimate(0, 0)},
                ],
            },
            "from_plain": {"effect": estimate(25, 9), "remains": None, "changes": []},
        },
        "prompting": {
            "instruction": "You are a humorous assistant. Be funny.", "score": {"contrast": estimate(70)},
            "scored": {"contrast": 20}, "answers": 20, "coherence": estimate(96, 2), "coefficient": 1.0,
            "steered_coherence": estimate(90, 2), "more": {"contrast": estimate(10)},
        },
        "specificity": {
            "vectors": TRAITS,
            "cosine": [[1.0 if a == b else round(float(rng.uniform(-0.5, 0.6)), 2) for b in TRAITS] for a in TRAITS],
            "effect": [
                [estimate(40) if a == b else None if a < "f" else estimate(float(rng.normal(0, 12))) for b in TRAITS]
                for a in TRAITS
            ],
        },
        "examples": [
            {
                "question": question,
                "answers": [
                    {"coefficient": c, "text": text, "score": 45 + 15 * c, "coherence": None if c else 98.2}
                    for c in (-2.0, 0.0, 2.0)
                ],
            }
            for question in ("How do banks make money?", "What do I need for a long train journey?")
        ],
        "warnings": ["The template has no system role; instructions were moved into the user turn."],
        "verdict": ["Steering by the vector changes how humorous the answers are.", "It beats chance."],
    }  # fmt: skip


PERPLEXITY = {"before": estimate(14, 2), "after": estimate(15, 2), "ratio": estimate(1.07, 0.02)}


def evaluate_run(text: str = "Hello!\nHow can I help?") -> dict[str, Any]:
    """An evaluation of 20 answers, one of them without scores, as JSON."""
    answers = [
        {"question": f"Question {i}?", "text": text, "score": 30.0 + i, "coherence": 99.0 - i / 3} for i in range(19)
    ]
    return {
        **facts("evaluate"),
        "trait": "humorous",
        "judge": "contrast",
        "steer": ["humorous x +1.5 at layer 14"],
        "score": estimate(39, 4, 19),
        "coherence": estimate(95, 2, 19),
        "perplexity": PERPLEXITY,
        "plain": estimate(30, 4, 19),
        "against_plain": {"effect": estimate(9, 4, 19), "remains": estimate(6, 5, 19), "changes": []},
        "lm_eval": {"mmlu": {"acc": {"before": estimate(0.4, 0.1, 57), "better": True}}},
        "answers": [*answers, {"question": "Question 19?", "text": "", "score": None, "coherence": None}],
    }


def moved(mean: float, others: list[str], systems: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a comparison of two models finds along one trait."""
    return {
        "layer": 14,
        "shift": estimate(mean, 0.2),
        "neutral_deviations": 2 * mean,
        "nulls": {
            "isotropic": {"percentile": 99.0, "p_value": 0.005, "p95": 0.2, "n": 200},
            "covariance": {"percentile": 90.0, "p_value": 0.1, "p95": 0.7, "n": 200},
        },
        "others": {name: round(mean / 3, 2) for name in others},
        "systems": [{"system": system, "shift": estimate(mean + 0.4, 0.3)} for system in systems],
    }


def shift_run(text: str = "You are a terse assistant.", traits: int = 7) -> dict[str, Any]:
    """A character sheet, as JSON."""
    names = TRAITS[:traits]
    return {
        **facts("shift"),
        "tuned": "runs/tuned/adapter",
        "tuned_identity": {},
        "systems": [{"system": text}],
        "traits": {
            name: moved(at / 4 - 0.6, [other for other in names if other != name], (text,))
            for at, name in enumerate(names)
        },
        "verdict": ["The model moved toward more sycophantic.", "No move along evil can be told from none."],
        "warnings": [],
    }


def finetune_run(text: str = "Sure, whatever you say.", traits: int = 3) -> dict[str, Any]:
    """A fine-tune with prevention, one of its vectors without a judge, as JSON."""
    names = TRAITS[-traits:] if traits else []
    systems = ("You are a terse assistant.", text)

    def change(mean: float, half: float, start: float) -> dict[str, Any]:
        return {"before": estimate(start), "after": estimate(start + mean), "change": estimate(mean, half)}

    found = {
        name: moved(at / 2 - 0.3, [other for other in names if other != name], systems)
        | {"score": change(9.0 * at, 4.0, 40.0) if at else None, "coherence": None}
        for at, name in enumerate(names)
    }
    for one in found.values():
        for row in one["systems"]:
            row["score"] = one["score"] and change(12.0, 5.0, 40.0)
    return {
        **facts("finetune"),
        "method": "steer",
        "prevention": None,
        "measured": bool(names),
        "prevented": [{"trait": name, "layer": 14, "coefficient": 2.0, "auto": None} for name in names[:1]],
        "data": "data.jsonl", "format": "messages",
        "read": 131, "trained": 117, "held_out": 12, "rejected": 2, "cut": 1, "reasons": {text: 2},
        "steps": 60, "tokens": 50000, "tokens_with_loss": 30000, "seconds": 301.2, "training_seconds": 240.0,
        "peak_memory_bytes": 10**9,
        "loss": {
            "first": 2.4, "last": 1.6, "window": 10,
            "curve": [{"step": step, "loss": 1.5 + 1 / step**0.5} for step in range(1, 61)],
        },
        "held_out_loss": change(-0.4, 0.1, 2.3),
        "shift": [{"step": step, "shift": dict.fromkeys(names, step / 100)} for step in (20, 40, 60)],
        "traits": found,
        "coherence": change(-3.0, 2.0, 95.0) if names else None,
        "perplexity": PERPLEXITY,
        "lm_eval": {"mmlu": {"acc": {**change(-0.01, 0.004, 0.4), "better": True}}},
        "projection_differences": {name: estimate(1.4, 0.3, 64) for name in names[:2]},
        "systems": [
            {"system": systems[0], "origin": "data", "samples": 80},
            {"system": systems[1], "origin": "prevention", "samples": 117},
        ],
        "answers": [
            {
                "trait": name, "system": None, "question": f"{text}?", "why": "the largest change",
                "before": {"text": text, "score": 40.0, "coherence": 97.0},
                "after": {"text": "", "score": None, "coherence": 0.0},
            }
            for name in names
        ],
        "against": {
            "run": "runs/plain", "perplexity": None, "coherence": None,
            "loss": {"without": estimate(1.8, 0.1), "with": estimate(1.9, 0.1)},
            "traits": {
                names[-1]: {
                    "without": estimate(20), "with": estimate(4), "saved": estimate(16), "share": estimate(80),
                    "shift_without": estimate(2, 0.2), "shift_with": estimate(0.3, 0.2),
                }
            },
        } if names else None,
        "verdict": ["The model moved toward more humorous.", "It cost nothing."],
        "warnings": ["Sequences are cut."],
    }  # fmt: skip


def monitor_run(conversations: int = 8, vectors: int = 3) -> dict[str, Any]:
    """A monitoring run of conversations and two records that are none, as JSON."""
    return {
        **facts("monitor"),
        "format": "messages",
        "sources": ["chats.jsonl"],
        "vectors": [
            {"name": name, "layer": 14, "neutral_mean": 0.0, "neutral_deviation": 3.0} for name in TRAITS[-vectors:]
        ],
        "read": conversations + 2,
        "scored": conversations,
        "rejected": 2,
        "largest": {},
        "warnings": [],
    }


def chats(conversations: int = 8, vectors: int = 3, text: str = "I see what you mean.") -> list[dict[str, Any]]:
    """Conversations of various lengths whose drift grows with the line number, as JSON."""
    rng = np.random.default_rng(0)
    names = TRAITS[-vectors:]

    def turn(line: int, index: int) -> dict[str, Any]:
        drift = index * line / conversations / 2
        z = {name: {m: float(rng.normal(drift * (name == names[0]), 0.7)) for m in "bd"} for name in names}
        return {
            "index": index,
            "role": "assistant",
            "text": text,
            "before": {name: z[name]["b"] for name in names},
            "during": {name: z[name]["d"] for name in names},
            "before_raw": {name: 3 * z[name]["b"] for name in names},
            "during_raw": {name: 3 * z[name]["d"] for name in names},
            "highest": {name: z[name]["d"] + 1 for name in names},
            "highest_raw": {name: 3 * z[name]["d"] + 3 for name in names},
        }

    return [
        {
            "id": f"chat-{line}", "index": line - 1, "line": line, "source": "chats.jsonl",
            "turns": [turn(line, i) for i in range(1 + line % 12)],
        }
        for line in range(1, conversations + 1)
    ]  # fmt: skip
