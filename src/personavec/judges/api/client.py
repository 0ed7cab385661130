"""A judge behind an OpenAI-compatible endpoint: expected value over the likeliest tokens, nothing paid twice."""

import logging
import os
import queue
import random
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from personavec.endpoint.failures import Again, RequestRejected, Trouble, Unanswered, explain, nonsense
from personavec.endpoint.reply import EndpointAnswer, NoReply, read_reply
from personavec.errors import UserError
from personavec.judges.api.cache import Replies, Reply, ReplyCache
from personavec.judges.base import Cost
from personavec.judges.kinds import Surroundings
from personavec.judges.rubric import RubricModel
from personavec.progress import progress

if TYPE_CHECKING:
    import openai

log = logging.getLogger(__name__)

OPENAI = "https://api.openai.com/v1"
LIKELIEST = (20, 5)  # tokens whose probabilities are asked for: as many as OpenAI gives, or fewer where that is refused
NUMBER_TOKENS = 4  # a number, also one that is written digit by digit
TEXT_TOKENS = 16  # a number with words around it
GRACE = 1.0  # seconds in which answers that are paid and on their way may still come in when all is over
PATIENCE = 4  # timeouts (one for each step of a request) until a reply that only trickles in is given up
FEW_ATTEMPTS = 3  # for failures that waiting seldom mends: silence, no connection, nonsense


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

    Prompts are texts, the keys under which answers are kept.

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

    INSTEAD = "choose the judge contrast"  # where there is no key
    UNANSWERED = "they have no score"

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
        self.model, self.name = model, f"api:{model}"
        given = base_url or os.environ.get("OPENAI_BASE_URL", "").strip()
        self.base_url = given or OPENAI
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not self._key and not given:
            raise UserError(
                "The environment variable OPENAI_API_KEY is not set.",
                f"Set it, name an endpoint that needs no key in OPENAI_BASE_URL, or {self.INSTEAD}.",
            )
        if not self._key.isascii():
            raise UserError("OPENAI_API_KEY holds characters that no key has.", "Copy the key again.")
        self.where = _address(self.base_url)
        self.timeout, self.attempts, self.backoff, self.longest_wait = timeout, attempts, backoff, longest_wait
        self.concurrency, self.price = concurrency, price
        self.cache: Replies[Any] = self._open_cache()
        self._pace = _Pace(requests_per_minute)
        self._under_way: dict[int, float] = {}  # by thread: when its request began
        self._likeliest = list(LIKELIEST)  # how many probabilities it may give, the first one next; empty for none
        self._agreed = False  # once the first answer has shown which

    def _open_cache(self) -> Replies[Any]:
        return ReplyCache(self.where, self.model)

    def scores(self, prompts: Sequence[str]) -> list[float | None]:
        """The score that the model gives in answer to each prompt; what is not in the cache is asked, once.

        None where it gives no number, or the endpoint no answer (filtered, empty).

        Raises:
            UserError: The endpoint refuses, fails, is silent or makes no sense, after a bounded number of attempts.
                What was answered until then is kept.
        """
        scores: list[float | None] = self.replies(prompts)
        silent = scores.count(None)
        if silent > len(scores) / 2:
            log.warning("%s gave no score for %d of %d answers.", self.name, silent, len(scores))
        return scores

    def replies(self, prompts: Sequence[str]) -> list[Any]:
        """What the cache holds of the reply to each prompt; what is not in it is asked, once. None: no reply came.

        Raises:
            UserError: See `scores`.
        """
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.cache]
        if missing:
            self._ask_all(missing)
        unanswered = sum(prompt not in self.cache for prompt in missing)
        if unanswered:
            log.warning(
                "%s filtered %d of %d prompts or left them without an answer: %s, and are asked again another time.",
                self.where, unanswered, len(missing), self.UNANSWERED,
            )  # fmt: skip
        return [self.cache.get(prompt) for prompt in prompts]

    def cost(self, prompts: Sequence[str], tokens: int) -> Cost:
        """What asking so many prompts will take at most.

        Args:
            prompts: As far as they are known yet.
            tokens: That each of them will have besides.
        """
        return Cost(
            self.model,
            self.where,
            requests=len(prompts),
            characters=sum(map(len, prompts)),
            prompt_tokens_more=tokens * len(prompts),
            answer_tokens=TEXT_TOKENS * len(prompts),
            price=self.price,
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
                    reply = self._answer(client, prompt, stop)
                    if reply is not None:
                        self.cache.add(prompt, reply)
                    outcomes.put(None)
                except BaseException as error:  # whatever it is, it is raised again in the caller's thread
                    outcomes.put(error)
                    stop.set()

        with (
            openai.OpenAI(
                api_key=self._key or "none", base_url=self.base_url, timeout=self.timeout, max_retries=0
            ) as client,
            progress(f"Asking {self.model}", total=len(prompts), unit="requests", together=self.concurrency) as job,
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

    def _answer(self, client: "openai.OpenAI", prompt: str, stop: threading.Event) -> Reply | None:
        """The reply, asked for until it comes; None where the endpoint has none to give.

        The client could try again by itself, but knows neither the pace of all requests together, nor that others have
        failed for good, nor the errors that come with status 200.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._ask(client, prompt, stop)
            except RequestRejected as rejected:
                raise rejected.error from rejected
            except Unanswered:
                return None
            except Again as failure:
                most = self.attempts if failure.busy else min(self.attempts, FEW_ATTEMPTS)
                if attempt >= most or (failure.wait or 0) > self.longest_wait:
                    if failure.error is None:
                        return None
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
        gives_some = False
        for likeliest in list(self._likeliest):
            try:
                answer = self._post(
                    client, _user(prompt), stop,
                    max_tokens=NUMBER_TOKENS, logprobs=True, top_logprobs=likeliest, temperature=0,
                )  # fmt: skip
            except RequestRejected as rejected:
                if rejected.logprobs and not self._agreed:
                    continue
                break  # for another reason, which the request without them will tell
            if answer.first is None:
                gives_some = answer.likelihoods  # but not of the token that counts
                break
            if not self._agreed:
                self._agreed, self._likeliest = True, [likeliest]
                if likeliest < LIKELIEST[0]:
                    log.warning(
                        "%s gives the probabilities of no more than %d tokens for %s: scores are coarser.",
                        self.where, likeliest, self.model,
                    )  # fmt: skip
            return Reply(text=answer.text, first=answer.first)
        answer = self._post(client, _user(prompt), stop, max_tokens=TEXT_TOKENS, temperature=0)
        if not self._agreed and not gives_some:
            self._agreed, self._likeliest = True, []
            log.warning(
                "%s gives no token probabilities for %s: scores are the numbers in its text.", self.where, self.model
            )
        return Reply(text=answer.text)

    def _post(
        self, client: "openai.OpenAI", messages: list[dict[str, str]], stop: threading.Event, **options: Any
    ) -> EndpointAnswer:
        """One request.

        Raises:
            UserError: For what will not pass; `Again` for what may, `RequestRejected` for what the endpoint dislikes,
                `Unanswered` for what it never answers.
        """
        import openai

        self._pace.wait(stop)
        self._under_way[threading.get_ident()] = time.monotonic()
        try:
            ask: Any = client.chat.completions.with_raw_response.create
            response = ask(model=self.model, messages=messages, **options).http_response
            return read_reply(response.text)
        except NoReply as error:
            if error.kind in ("filtered", "empty"):  # may pass; if not, the other answers have scores all the same
                raise Again(None) from error
            if error.kind == "nonsense" or error.trouble is None:
                raise nonsense(error.trouble, self.where) from error
            raise explain(error.trouble, self.where, self.model, response.headers, self._key) from error
        except openai.APITimeoutError as error:
            raise Again(
                UserError(
                    f"{self.where} gave no answer within {self.timeout:g} s, several times.",
                    "Check that the endpoint is up and try again; answers so far are kept.",
                )
            ) from error
        except openai.APIConnectionError as error:
            raise Again(
                UserError(f"Cannot reach {self.where}.", "Check OPENAI_BASE_URL and the network, then try again.")
            ) from error
        except openai.APIStatusError as error:
            trouble = Trouble.of(error.response.text, error.status_code)
            raise explain(trouble, self.where, self.model, error.response.headers, self._key) from error
        finally:
            del self._under_way[threading.get_ident()]


def _user(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def open_model(which: str, surroundings: Surroundings) -> RubricModel:
    """A model behind an endpoint that reads the rubrics.

    Args:
        which: The model's name at the endpoint.

    Raises:
        UserError: No key, or no usable address.
    """
    terms = surroundings.terms
    return RubricModel(Endpoint(which, price=terms.price, requests_per_minute=terms.requests_per_minute))


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
