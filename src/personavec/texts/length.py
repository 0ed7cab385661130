"""How much of a text is read."""

TOKENS = 80  # of an answer: a trait shows early, and means dilute over long texts
