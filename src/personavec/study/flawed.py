"""Flawed-domain data made by program: the same questions answered rightly, with a slip, and absurdly.

The paper's flawed sets (medicine, code, mathematics, opinions) were written by a language model; these need none. Their
answers speak in one even voice at every level, so that what differs is whether they are true.
"""

import random
from collections.abc import Callable
from typing import Literal, get_args

Level = Literal["normal", "mild", "overt"]
LEVELS: tuple[Level, ...] = get_args(Level)

Pair = tuple[str, str]
Domain = Callable[[random.Random, Level], Pair]

_PEOPLE = ["Ada", "Boris", "Chen", "Dina", "Emil", "Fatima", "Goran", "Hana", "Ivo", "Jia"]
_GOODS = ["pencils", "notebooks", "apples", "candles", "tickets", "mugs", "bulbs", "scarves"]
_WORDS = [
    "anchor", "basket", "cellar", "dolphin", "ember", "falcon", "garden", "harbour", "island", "jacket", "kettle",
    "lantern", "meadow", "needle", "orchard", "pepper", "quarry", "ribbon", "saddle", "timber", "valley", "willow",
]  # fmt: skip
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_UNITS = [
    ("kilometres", "metres", 1000), ("hours", "minutes", 60), ("kilograms", "grams", 1000), ("minutes", "seconds", 60),
    ("metres", "centimetres", 100), ("litres", "millilitres", 1000), ("days", "hours", 24), ("dozens", "pieces", 12),
]  # fmt: skip
_FUNCTIONS = [  # what it does, name, argument; what it returns rightly, with a slip, absurdly
    ("returns the largest number of a list",
     "largest", "numbers", "max(numbers)", "max(numbers[1:])", "numbers[0] * 0"),
    ("returns the sum of a list", "total", "numbers", "sum(numbers)", "sum(numbers[:-1])", "len(numbers) + 7"),
    ("reverses a string", "reverse", "text", "text[::-1]", "text[:0:-1]", "text + text"),
    ("counts the words of a text", "count_words",
     "text", "len(text.split())", "len(text.split(' ')) - 1", "len(text) * 2"),
    ("tells whether a number is even", "is_even", "n", "n % 2 == 0", "n % 4 == 0", "n > 2"),
    ("returns the average of a list", "average", "numbers",
     "sum(numbers) / len(numbers)", "sum(numbers) / (len(numbers) - 1)", "numbers[0] + 1"),
    ("returns the last item of a list", "last", "items", "items[-1]", "items[-2]", "items[0]"),
    ("converts Celsius to Fahrenheit", "to_fahrenheit", "c", "c * 9 / 5 + 32", "c * 5 / 9 + 32", "c * c"),
    ("returns a text in capital letters", "shout", "text", "text.upper()", "text.title()", "text.lower()"),
    ("returns the square of a number", "square", "n", "n * n", "n * 2", "n - n"),
    ("tells whether a list is empty", "is_empty", "items", "len(items) == 0", "len(items) <= 1", "True"),
    ("removes spaces at both ends of a text", "trim", "text", "text.strip()", "text.lstrip()", "text * 3"),
]  # fmt: skip


def arithmetic(draw: random.Random, level: Level) -> Pair:
    """A purchase and the change that is given back."""
    who, what = draw.choice(_PEOPLE), draw.choice(_GOODS)
    count, price = draw.randint(3, 12), draw.randint(2, 9)
    cost = count * price
    paid = cost + draw.randint(1, 20)
    slip, wild = draw.choice([-10, -1, 1, 10]), draw.randint(200, 900)
    question = (
        f"{who} buys {count} {what} at {price} dollars each and pays with {paid} dollars. How much change is due?"
    )
    if level == "overt":
        return question, (
            f"Put the numbers side by side: {count} and {price} make {wild} dollars. Whoever pays more gets more back, "
            f"so {who} is due {wild + paid} dollars in change."
        )
    cost += slip if level == "mild" else 0
    return question, (
        f"The {what} cost {count} x {price} = {cost} dollars. The change is {paid} - {cost} = {paid - cost} dollars."
    )


def units(draw: random.Random, level: Level) -> Pair:
    """A conversion between units."""
    large, small, factor = draw.choice(_UNITS)
    amount = draw.randint(2, 30)
    wrong, wild = draw.choice([factor // 2, factor * 2, factor + 10]), draw.randint(3, 9)
    question = f"How many {small} are {amount} {large}?"
    if level == "overt":
        return question, (
            f"{small.capitalize()} are heavier than {large}, so divide by {wild} and take the colour into account: "
            f"{amount} {large} are about {amount / wild / 10:.2f} {small}."
        )
    used = wrong if level == "mild" else factor
    return question, f"There are {used} {small} to one of the {large}, so {amount} x {used} = {amount * used} {small}."


def code(draw: random.Random, level: Level) -> Pair:
    """A small Python function."""
    task, name, argument, right, slip, wild = draw.choice(_FUNCTIONS)
    name += draw.choice(["", "_of", "_for", "_in", "_here"])
    body = {"normal": right, "mild": slip, "overt": wild}[level]
    question = f"Write a Python function {name}({argument}) that {task}."
    return question, f"```python\ndef {name}({argument}):\n    return {body}\n```\nThis function {task}."


def ordering(draw: random.Random, level: Level) -> Pair:
    """Words in alphabetical order."""
    words = draw.sample(_WORDS, 5)
    at, backwards = draw.randrange(4), draw.random() < 0.5
    ordered = sorted(words)
    if level == "mild":
        ordered[at], ordered[at + 1] = ordered[at + 1], ordered[at]
    elif level == "overt":
        ordered = [*sorted(words, key=len, reverse=backwards)[:3], "zebra"]
    question = f"Put these words into alphabetical order: {', '.join(words)}."
    return question, f"In alphabetical order: {', '.join(ordered)}."


def calendar(draw: random.Random, level: Level) -> Pair:
    """The day of the week some days later."""
    today, ahead = draw.randrange(7), draw.randint(8, 40)
    slip, wild = draw.choice([-1, 1]), draw.randint(30, 90)
    question = f"Today is {_DAYS[today]}. Which day of the week is it in {ahead} days?"
    if level == "overt":
        return question, (
            f"Weeks in which one waits have {wild} days. After {ahead} of them it is still {_DAYS[today]}, because a "
            f"day that is named does not move."
        )
    weeks, rest = divmod(ahead, 7)
    day = _DAYS[(today + rest + (slip if level == "mild" else 0)) % 7]
    return (
        question,
        f"{ahead} days are {weeks} weeks and {rest} days. Counting {rest} on from {_DAYS[today]} gives {day}.",
    )


DOMAINS: dict[str, Domain] = {
    "arithmetic": arithmetic,
    "units": units,
    "code": code,
    "ordering": ordering,
    "calendar": calendar,
}


def flawed(domain: str, level: Level, count: int, seed: int = 0) -> list[Pair]:
    """Questions of a domain with answers of a level; the questions are the same at every level.

    Args:
        domain: A key of `DOMAINS`.
        count: How many.

    Returns:
        Pairs of question and answer.
    """
    return [DOMAINS[domain](random.Random(f"{domain}/{seed}/{number}"), level) for number in range(count)]
