"""What a run's figures say, in plain words, and where they say nothing."""

from typing import Any

from personavec.extraction.figures import NULL_QUESTIONS


def verdict(run: dict[str, Any]) -> list[str]:
    """Sentences for the summary of an extraction (the content of run.json), most important first."""
    name = run["trait"]["name"]
    return [
        _steering(name, run),
        _strength(run),
        _separation(name, run),
        *_specificity(name, run),
        _judge(run),
    ]


def _steering(name: str, run: dict[str, Any]) -> str:
    effect, null, at = run["steering"]["effect"], run["steering"]["null"], run["steering"]["coefficient"]
    same = run["steering"]["effect_on_null_questions"]
    figures = (
        f"from -{at:g} to +{at:g} the score moves by {effect['mean']:.0f} points "
        f"(95 % interval {effect['low']:.0f} to {effect['high']:.0f}, n = {effect['n']} evaluation questions)"
    )
    chance = (
        f"on the {NULL_QUESTIONS} questions where {null['n']} random directions of equal norm were tried, each at the "
        f"layer it chose, the strongest of them moves it by {max(map(abs, null['effects'])):.0f} "
        f"and this vector by {same:.0f} (p = {null['p']:.2f})"
    )
    if effect["low"] > 0 and same > max(map(abs, null["effects"])):
        return (
            f"Steering by the vector changes how {name} the answers are: {figures}. "
            f"That is more than any chance direction did: {chance}."
        )
    if effect["low"] > 0:
        return f"Steering by the vector moves the score: {figures}; but chance does as much: {chance}."
    return f"Steering by the vector does not reliably make the answers more {name}: {figures}; {chance}."


def _strength(run: dict[str, Any]) -> str:
    low, high = run["coherent_range"]
    best = run["recommended_coefficient"]
    if run["steering"]["effect"]["low"] <= 0:
        return "No coefficient is recommended, because none was shown to work."
    if best is None:
        return "No positive coefficient that was tried leaves the answers coherent; try smaller ones."
    return (
        f"Of the coefficients tried, answers stay coherent (at least 80 % of natural) from {low:g} to {high:g}; "
        f"{best:g} is the strongest that can be recommended."
    )


def _separation(name: str, run: dict[str, Any]) -> str:
    auc, null = run["separation"]["auc"], run["separation"]["null"]["covariance"]
    text = (
        f"On unseen questions and an unseen instruction, projections tell {name} answers from the opposite with AUC "
        f"{auc['mean']:.2f} ({auc['low']:.2f} to {auc['high']:.2f}); random directions with the same covariance and "
        f"their own choice of layer reach {null['mean']:.2f} on average and {null['p95']:.2f} at the 95th percentile"
    )
    if auc["mean"] > null["p95"]:
        return f"{text}, so the separation is more than chance gives."
    return f"{text}: the separation alone proves nothing about this trait."


def _specificity(name: str, run: dict[str, Any]) -> list[str]:
    table = run["specificity"]
    if len(table["vectors"]) < 2:
        return [
            "Whether the direction is specific to this trait is not known: no other trait was extracted beside it. "
            "Extract others into folders beside it and repeat this command: the report will compare them."
        ]
    row = table["effect"][table["vectors"].index(name)]
    own = row[table["scores"].index(name)]
    crossed = {s: e for s, e in zip(table["scores"], row, strict=True) if s != name and e is not None}
    closest = max(
        (
            (c, v)
            for c, v in zip(table["cosine"][table["vectors"].index(name)], table["vectors"], strict=True)
            if v != name
        ),
        key=lambda pair: abs(pair[0]),
    )
    sentences = [f"Its nearest neighbour is the vector of {closest[1]} (cosine {closest[0]:.2f})."]
    if crossed and own is not None:
        strongest = max(crossed, key=lambda s: abs(crossed[s]))
        compared = "less than" if abs(crossed[strongest]) < abs(own) else "at least as much as"
        sentences.append(
            f"Among the other traits, it moves the score of {strongest} most ({_effect(table, name, strongest)}), "
            f"{compared} its own ({_effect(table, name, name)})."
        )
    return sentences


def _effect(table: dict[str, Any], vector: str, score: str) -> str:
    """A cell of the matrix with its interval."""
    row, column = table["vectors"].index(vector), table["scores"].index(score)
    low, high = table["interval"][row][column]
    return f"{table['effect'][row][column]:.0f} points, {low:.0f} to {high:.0f}, n = {table['n'][row][column]}"


def _judge(run: dict[str, Any]) -> str:
    auc = run["judge"]["auc"]
    return (
        f"All scores are those of the {run['judge']['name']} judge, which tells the sides apart on unseen questions "
        f"with AUC {auc['mean']:.2f} ({auc['low']:.2f} to {auc['high']:.2f}, n = {auc['n']} questions)."
    )
