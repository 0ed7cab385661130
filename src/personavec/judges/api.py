"""A judge behind an OpenAI-compatible endpoint: expected value over the likeliest tokens, nothing paid twice."""

import logging
import math
import os
import queue
import random
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from personavec.errors import UserError
from personavec.judges import Answered
from personavec.judges.cache import Reply, ReplyCache
from personavec.judges.rubric import Prompt, coherence_prompt, trait_prompt
from personavec.judges.scorer import RubricScorer
from personavec.progress import progress
from personavec.traits import Trait

if TYPE_CHECKING:
    import openai

log = logging.getLogger(__name__)

OPENAI = "https://api.openai.com/v1"
LIKELIEST = (20, 5)  # tokens whose probabilities are asked for: as many as OpenAI gives, or fewer where that is refused
NUMBER_TOKENS = 4  # a number, also one that is written digit by digit
TEXT_TOKENS = 16  # a number with words around it
CHARACTERS_PER_TOKEN = 4  # roughly, for the estimate
GRACE = 1.0  # seconds in which answers that are paid and on their way may still come in when all is over
PATIENCE = 4  # timeouts (one for each step of a request) until a reply that only trickles in is given up
FEW_ATTEMPTS = 3  # for failures that waiting seldom mends: silence, no connection, nonsense


class _Token(BaseModel):
    token: str
    logprob: FiniteFloat


class _Position(_Token):
    top_logprobs: list[_Token] = []


class _Logprobs(BaseModel):
    content: list[_Position] | None = None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    logprobs: _Logprobs | None = None


class _Completion(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]


class _Again(Exception):
    """A failure that may pass.

    Attributes:
        error: What to say if it does not.
        busy: The endpoint is there, but has too much to do.
        wait: Seconds after which the endpoint wants to be asked again, if it says so.
    """

    def __init__(self, error: UserError, busy: bool = False, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.busy, self.wait = error, busy, wait


class _Rejected(Exception):
    """The endpoint does not accept the request as it is.

    Attributes:
        error: What to say if it accepts no other either.
        logprobs: It speaks of the token probabilities that were asked for.
    """

    def __init__(self, error: UserError, logprobs: bool) -> None:
        super().__init__(str(error))
        self.error, self.logprobs = error, logprobs


class _Stopped(Exception):
    """Another request has failed for good, or the user has interrupted."""


class _Pace:
    """When the next request may start, for all threads together."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        """Wait for one's turn."""
        with self._lock:
            start = max(time.monotonic(), self._next)
            self._next = start + self._gap
        if stop.wait(max(0.0, start - time.monotonic())):
            raise _Stopped

    def hold(self, seconds: float) -> None:
        """Let nobody start for so long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class Endpoint:
    """One model behind an OpenAI-compatible endpoint, asked for numbers; answers are kept on disk.

    Args:
        model: The model's name at the endpoint.
        base_url: The endpoint, for example "http://127.0.0.1:8000/v1"; by default OPENAI_BASE_URL, else OpenAI's.
            The key is read from OPENAI_API_KEY; an endpoint of one's own may need none.
        timeout: Seconds to wait for one answer.
        attempts: How often to ask while the endpoint says that it is busy.
        backoff: Seconds before the second attempt, doubled before each further one.
        longest_wait: Seconds; an endpoint that wants more is given up.
        requests_per_minute: Upper limit; None for none but the endpoint's own.
        concurrency: Requests under way at the same time.
        price: US$ of a million prompt tokens and of a million answer tokens, for the estimate; None: not known.

    Raises:
        UserError: No key, or no usable address.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        timeout: float = 60.0,
        attempts: int = 7,
        backoff: float = 1.0,
        longest_wait: float = 60.0,
        requests_per_minute: float | None = None,
        concurrency: int = 8,
        price: tuple[float, float] | None = None,
    ) -> None:
        self.model = model
        given = base_url or os.environ.get("OPENAI_BASE_URL", "").strip()
        self.base_url = given or OPENAI
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not self._key and not given:
            raise UserError(
                "The environment variable OPENAI_API_KEY is not set.",
                "Set it, name an endpoint that needs no key in OPENAI_BASE_URL, or choose the judge contrast.",
            )
        if not self._key.isascii():
            raise UserError("OPENAI_API_KEY holds characters that no key has.", "Copy the key again.")
        self.where = _address(self.base_url)
        self.timeout, self.attempts, self.backoff, self.longest_wait = timeout, attempts, backoff, longest_wait
        self.concurrency, self.price = concurrency, price
        self.cache = ReplyCache(self.where, model)
        self._pace = _Pace(requests_per_minute)
        self._under_way: dict[int, float] = {}  # by thread: when its request began
        self._likeliest = list(LIKELIEST)  # how many probabilities it may give, the first one next; empty for none
        self._settled = False  # once the first answer has shown which

    def scores(self, prompts: Sequence[str]) -> list[float | None]:
        """The score that the model gives in answer to each prompt; what is not in the cache is asked, once.

        Raises:
            UserError: The endpoint refuses, fails, is silent or makes no sense, after a bounded number of attempts.
                What was answered until then is kept.
        """
        distinct = list(dict.fromkeys(prompts))
        missing = [prompt for prompt in distinct if prompt not in self.cache]
        if missing:
            self._ask_all(missing)
        return [self.cache.score(prompt) for prompt in prompts]

    def estimate(self, prompts: Sequence[str], more: int = 0) -> str:
        """What asking so many prompts will take at most, in two sentences.

        Args:
            prompts: As far as they are known yet.
            more: Tokens that each of them will have besides.
        """
        given = sum(len(prompt) for prompt in prompts) // CHARACTERS_PER_TOKEN + more * len(prompts)
        taken = TEXT_TOKENS * len(prompts)
        if self.price is None:
            cost = "price not known"
        else:
            cents = math.ceil((given * self.price[0] + taken * self.price[1]) / 1e4)
            cost = f"${cents / 100:,.2f}"
        return (
            f"Judge {self.model} at {self.where}: at most {len(prompts):,} requests, about {given:,} prompt tokens and "
            f"{taken:,} answer tokens, {cost}. Answers that are in the cache are not asked for again."
        )

    def _ask_all(self, prompts: Sequence[str]) -> None:
        import openai  # here, because it is slow to import and few callers need it

        stop = threading.Event()
        waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        outcomes: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threads: list[threading.Thread] = []

        def work() -> None:
            while not stop.is_set():
                try:
                    prompt = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    self.cache.add(prompt, self._answer(client, prompt, stop))
                    outcomes.put(None)
                except BaseException as error:  # whatever it is, it is raised again in the caller's thread
                    outcomes.put(error)
                    stop.set()

        with (
            openai.OpenAI(
                api_key=self._key or "none", base_url=self.base_url, timeout=self.timeout, max_retries=0
            ) as client,
            progress(f"Asking {self.model}", total=len(prompts), unit="requests") as job,
        ):
            try:
                # The first one alone: a wrong key costs one request, and it shows whether there are logprobs.
                for batch in (prompts[:1], prompts[1:]):
                    for prompt in batch:
                        waiting.put(prompt)
                    for _ in range(min(self.concurrency, len(batch))):
                        # Daemons: a silent endpoint must not hold up the end of an interrupted program.
                        threads.append(threading.Thread(target=work, daemon=True))
                        threads[-1].start()
                    for _ in batch:
                        outcome = self._outcome(outcomes)
                        if outcome is not None:
                            raise outcome
                        job.advance()
            finally:
                stop.set()
                deadline = time.monotonic() + min(GRACE, self.timeout)
                for thread in threads:
                    thread.join(max(0.0, deadline - time.monotonic()))

    def _outcome(self, outcomes: "queue.SimpleQueue[BaseException | None]") -> BaseException | None:
        """How the next request ends: None, or what is to be raised."""
        longest = PATIENCE * self.timeout + 1
        while True:
            try:
                return outcomes.get(timeout=self.timeout)
            except queue.Empty:
                # The client's timeout starts anew with every byte: a reply that trickles in would never be cut off.
                if any(time.monotonic() - begun > longest for begun in list(self._under_way.values())):
                    return UserError(
                        f"{self.where} gave no whole answer within {longest:g} s.",
                        "Check that the endpoint is up and try again; answers so far are kept.",
                    )

    def _answer(self, client: "openai.OpenAI", prompt: str, stop: threading.Event) -> Reply:
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._ask(client, prompt, stop)
            except _Rejected as rejected:
                raise rejected.error from rejected
            except _Again as failure:
                most = self.attempts if failure.busy else min(self.attempts, FEW_ATTEMPTS)
                if attempt >= most or (failure.wait or 0) > self.longest_wait:
                    raise failure.error from failure
                delay = self.backoff * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
                delay = min(max(delay, failure.wait or 0.0), self.longest_wait)
                if failure.wait:
                    self._pace.hold(failure.wait)
                if stop.wait(delay):
                    raise _Stopped from failure

    def _ask(self, client: "openai.OpenAI", prompt: str, stop: threading.Event) -> Reply:
        """One reply: with probabilities if the endpoint gives them, else the text alone.

        The first answer shows how many the endpoint gives; from then on that is what it is asked for.
        """
        for likeliest in list(self._likeliest):
            try:
                choice = self._post(
                    client, prompt, stop, max_tokens=NUMBER_TOKENS, logprobs=True, top_logprobs=likeliest, temperature=0
                )
            except _Rejected as rejected:
                if rejected.logprobs and not self._settled:
                    continue
                break  # for another reason, which the request without them will tell
            first = _first_token(choice)
            if first is None:
                break
            if first and not self._settled:
                self._settled, self._likeliest = True, [likeliest]
                if likeliest < LIKELIEST[0]:
                    log.warning(
                        "%s gives the probabilities of no more than %d tokens for %s: scores are coarser.",
                        self.where, likeliest, self.model,
                    )  # fmt: skip
            return Reply(text=choice.message.content or "", first=first)
        choice = self._post(client, prompt, stop, max_tokens=TEXT_TOKENS, temperature=0)
        if not self._settled:
            self._settled, self._likeliest = True, []
            log.warning(
                "%s gives no token probabilities for %s: scores are the numbers in its text.", self.where, self.model
            )
        return Reply(text=choice.message.content or "")

    def _post(self, client: "openai.OpenAI", prompt: str, stop: threading.Event, **options: Any) -> _Choice:
        """One request. Raises UserError for what will not pass, _Again for what may, _Rejected for what it dislikes."""
        import openai

        self._pace.wait(stop)
        self._under_way[threading.get_ident()] = time.monotonic()
        try:
            response = client.chat.completions.with_raw_response.create(
                model=self.model, messages=[{"role": "user", "content": prompt}], **options
            )
            return _Completion.model_validate_json(response.http_response.content).choices[0]
        except ValidationError as error:
            raise _Again(
                UserError(
                    f"{self.where} does not answer as an OpenAI-compatible endpoint does.",
                    "Check OPENAI_BASE_URL; most endpoints end in /v1.",
                )
            ) from error
        except openai.APITimeoutError as error:
            raise _Again(
                UserError(
                    f"{self.where} gave no answer within {self.timeout:g} s, several times.",
                    "Check that the endpoint is up and try again; answers so far are kept.",
                )
            ) from error
        except openai.APIConnectionError as error:
            raise _Again(
                UserError(f"Cannot reach {self.where}.", "Check OPENAI_BASE_URL and the network, then try again.")
            ) from error
        except openai.APIStatusError as error:
            if error.code == "content_filter":  # the endpoint will not look at this answer: no score
                return _Choice(message=_Message(), logprobs=_Logprobs(content=[]))
            raise self._failure(error) from error
        finally:
            del self._under_way[threading.get_ident()]

    def _failure(self, error: "openai.APIStatusError") -> Exception:
        status = error.status_code
        message = error.body.get("message") if isinstance(error.body, dict) else None
        said = f"status {status}" + (f": {message[:200]}" if isinstance(message, str) else "")
        if status in (401, 403):
            return UserError(
                f"{self.where} refused the key ({said}).", "Check the environment variable OPENAI_API_KEY."
            )
        if status == 404:
            return UserError(
                f"{self.where} knows no model {self.model!r} (status 404).",
                "Check the model's name, and the address in OPENAI_BASE_URL.",
            )
        if status == 429 and error.code == "insufficient_quota":
            return UserError(
                f"{self.where} says that your quota is used up ({said}).", "Top it up; answers so far are kept."
            )
        if status == 429:
            limit = UserError(
                f"{self.where} is still at its rate limit (status 429).",
                "Wait a while and try again; answers so far are kept.",
            )
            return _Again(limit, busy=True, wait=_retry_after(error.response.headers))
        if status >= 500 or status in (408, 409):
            broken = UserError(f"{self.where} keeps failing ({said}).", "Try again later; answers so far are kept.")
            return _Again(broken, busy=True, wait=_retry_after(error.response.headers))
        return _Rejected(
            UserError(
                f"{self.where} rejected the request ({said}).",
                f"Check that {self.model} is a chat model that takes max_tokens and temperature, or choose another.",
            ),
            logprobs="logprobs" in error.response.text,
        )


class ApiJudge:
    """Scores answers by a rubric that a model behind an endpoint reads.

    Args:
        endpoint: Whom to ask.
        prompt: Writes what it is asked about an answer.
        name: What the user calls the judge.
    """

    def __init__(self, endpoint: Endpoint, prompt: Prompt, name: str) -> None:
        self.endpoint, self.prompt, self.name = endpoint, prompt, name

    def score(self, items: Sequence[Answered]) -> list[float | None]:
        """One score 0..100 per item; None where the judge refused or gave no number. Raises as `Endpoint.scores`."""
        scores = self.endpoint.scores([self.prompt(item) for item in items])
        silent = scores.count(None)
        if silent > len(scores) / 2:
            log.warning("%s gave no score for %d of %d answers.", self.name, silent, len(scores))
        return scores


def api_judges(which: str, trait: Trait, **settings: Any) -> tuple[ApiJudge, ApiJudge]:
    """A judge for the trait and one for coherence, by one model behind one endpoint.

    Args:
        which: The model's name at the endpoint.
        settings: See `Endpoint`.

    Raises:
        UserError: No key, or no usable address.
    """
    endpoint = Endpoint(which, **settings)
    name = f"api:{which}"
    return ApiJudge(endpoint, trait_prompt(trait), name), ApiJudge(endpoint, coherence_prompt, name)


class ApiScorer(RubricScorer):
    """Scores rollouts by a judge for the trait and one for coherence; what it takes is said before it starts."""

    def __init__(self, trait: ApiJudge, coherence: ApiJudge) -> None:
        super().__init__(trait, coherence)
        self._asked = (trait, coherence)

    def announce(self, questions: Sequence[str], tokens: int) -> None:
        """Print one estimate for the responses that will be judged, for both judges together."""
        prompts = [judge.prompt(Answered(question, "")) for judge in self._asked for question in questions]
        log.warning("%s", self._asked[0].endpoint.estimate(prompts, tokens))


def _address(url: str) -> str:
    """The endpoint as it is shown and as cached answers are filed under: without user and password."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UserError(f"{url!r} is not the address of an endpoint.", "Write it like http://127.0.0.1:8000/v1.")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl().rstrip("/")


def _first_token(choice: _Choice) -> dict[str, float] | None:
    """Probabilities of the first token that is not white space, by text; None where the endpoint gives none."""
    positions = choice.logprobs.content if choice.logprobs is not None else None
    if positions is None or (not positions and choice.message.content):
        return None
    for position in positions:
        if position.token.strip():
            if not position.top_logprobs:
                return None
            first: dict[str, float] = {}
            for token in position.top_logprobs:
                first[token.token] = first.get(token.token, 0.0) + round(math.exp(min(token.logprob, 0.0)), 7)
            return first
    return {}


def _retry_after(headers: Any) -> float | None:
    """Seconds that an answer asks to wait: in milliseconds, in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
