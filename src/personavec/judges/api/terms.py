"""What the user says of a paid judge, which decides no score."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ApiTerms:
    """What a judge behind an endpoint costs and how fast it may be asked. Neither changes a score.

    Attributes:
        price: US$ of a million prompt tokens and of a million answer tokens; None: not known.
        requests_per_minute: Upper limit; None: none but the endpoint's own.
    """

    price: tuple[float, float] | None = None
    requests_per_minute: float | None = None
