"""The one exception a user is meant to read."""


class UserError(Exception):
    """A mistake the user can mend: what is wrong, and what to do next.

    The command line prints both sentences and ends with exit code 2, without a traceback.
    """

    def __init__(self, problem: str, advice: str = "") -> None:
        super().__init__(f"{problem} {advice}".strip())
        self.problem = problem
        self.advice = advice
