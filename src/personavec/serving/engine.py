"""The step loop: responses that come and go between steps, each with its own steering, sampling and stop strings.

One thread owns the model. In every turn of its loop it reads at most `CHUNK` tokens of the prompt that is next in the
queue, then runs one step of every group of responses; so no response waits longer than one chunk and one step.
"""

import copy
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from personavec.errors import UserError
from personavec.model import ChatModel
from personavec.model.edits import Intervention, SteeringPlan
from personavec.model.places import Places, read_piece
from personavec.model.sampling import draw, nucleus
from personavec.serving.prefixes import Prefixes
from personavec.serving.readings import Meter, Reading
from personavec.serving.settings import ServeSettings
from personavec.serving.voice import Voice
from personavec.vector import PersonaVector

log = logging.getLogger(__name__)

CHUNK = 128  # tokens of prompts read in a turn: larger ones are hardly faster, and streams wait for them
NARROWEST, WIDER = 512, 4  # the reach of the first group of responses, and of each next one in that of the one before
STEP = 64  # tokens that the length of a group is a multiple of
KEPT_SHARE = 8  # one part in so many of the budget is for prompts that are kept


@dataclass(frozen=True)
class DrawnToken:
    """One token of a response.

    Attributes:
        logprob: Natural logarithm of its probability at temperature 1, steering included; None unless asked for.
        top: The likeliest tokens at its place and theirs.
        reading: Its projection on each vector of the meter; None unless asked for.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    reading: Reading | None = None


@dataclass(frozen=True)
class Begun:
    """A response begins. `reading` is of the last prompt token; None unless asked for."""

    choice: int
    reading: Reading | None


@dataclass(frozen=True)
class Piece:
    """Some more text of a response, and the tokens that it ends with."""

    choice: int
    text: str
    tokens: tuple[DrawnToken, ...]


@dataclass(frozen=True)
class Ended:
    """A response is over.

    Attributes:
        tokens: How many were drawn, those that a stop string cut off included.
        steered: How many of them while the interventions acted.
    """

    choice: int
    reason: Literal["stop", "length"]
    tokens: int
    steered: int


@dataclass(frozen=True)
class Failed:
    """No more comes of a job."""

    error: Exception


Event = Begun | Piece | Ended | Failed
When = Callable[[Reading, Literal["answer", "prompt"]], bool]


@dataclass(eq=False)
class Job:
    """Responses to one prompt.

    Attributes:
        tell: Called on the engine's thread with every event, in order.
        n: How many responses; number i is drawn with the seed `seed + i`.
        top_p, temperature: See `nucleus` and `draw`.
        top_logprobs: How many of the likeliest tokens are told; None: no log-probabilities at all.
        reads: Whether projections are told.
        when: Whether the interventions act in the next step, asked after each: of the reading of the last prompt token,
            then of the mean of those of the tokens that have been read since. None: they always act. What has one
            must read, and its interventions leave prompts alone.
        client: Whose it is; prompts are shared by jobs of one client alone.
        reused: Tokens of the prompt that were not read, since an earlier one began with them; known at its first event.
        cancelled: Set by anybody who wants no more of it; its places are free at the next step.
    """

    prompt_ids: Sequence[int]
    tell: Callable[[Event], None]
    max_new_tokens: int
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stops: Sequence[str] = ()
    interventions: Sequence[Intervention] = ()
    top_logprobs: int | None = None
    reads: bool = False
    when: When | None = None
    client: int = 0
    reused: int = 0
    cancelled: bool = False

    @property
    def tokens(self) -> int:
        """The most that a place must hold for it."""
        return len(self.prompt_ids) + self.max_new_tokens

    def fail(self, error: Exception) -> None:
        """Tell why nothing more comes."""
        if not self.cancelled:
            self.cancelled = True
            self.tell(Failed(error))


class ClosingError(Exception):
    """The server shuts down."""

    def __init__(self) -> None:
        super().__init__("The server shuts down.")


class BusyError(Exception):
    """The queue is full. `seconds`: when to come again."""

    def __init__(self, seconds: int) -> None:
        super().__init__("The queue is full.")
        self.seconds = seconds


@dataclass(eq=False)
class _Line:
    """One response in a place.

    Attributes:
        unread: The last token drawn, whose reading comes with the next step.
        untold: Tokens whose text has not been told yet.
        acts: Whether the interventions do in the next step.
        steered: Tokens that were drawn while they did.
    """

    job: Job
    choice: int
    voice: Voice
    random: np.random.Generator
    drawn: int = 0
    begun: bool = False
    over: bool = False
    unread: DrawnToken | None = None
    untold: list[DrawnToken] = field(default_factory=list)
    told: int = 0
    steered: int = 0

    def __post_init__(self) -> None:
        self.acts = self.job.when is None
        self._sums: list[float] = []

    @property
    def interventions(self) -> Sequence[Intervention]:
        """Those of the next step."""
        return self.job.interventions if self.acts else ()

    def _judge(self, reading: Reading | None) -> None:
        """Whether the interventions act, now that the prompt's last token or one more token has been read."""
        if self.job.when is None or reading is None:
            return
        if not self.begun:
            self.acts = self.job.when(reading, "prompt")
            return
        self._sums = [a + b for a, b in zip(self._sums or [0.0] * len(reading), reading, strict=True)]
        read = self.drawn  # of the tokens drawn before, the step has read all
        self.acts = self.job.when([one / read for one in self._sums], "answer")

    def hear(self, token: DrawnToken | None, reading: Reading | None) -> None:
        """A step is done.

        Args:
            token: What was drawn; None: the end of the turn.
            reading: Of the token before it, which the step read.
        """
        acted = self.acts
        self._judge(reading)
        if not self.begun:
            self.begun = True
            self.job.tell(Begun(self.choice, reading))
        elif self.unread is not None:
            self._speak(replace(self.unread, reading=reading))
            self.unread = None
            if not self.over and self.drawn == self.job.max_new_tokens:
                self._end("length")
        if self.over:
            return
        if token is None:
            self._end("stop")
            return
        self.drawn += 1
        self.steered += acted
        if self.job.reads:
            self.unread = token
            return
        self._speak(token)
        if not self.over and self.drawn == self.job.max_new_tokens:
            self._end("length")

    def _speak(self, token: DrawnToken) -> None:
        self.untold.append(token)
        text = self.voice.hear(token.id)
        if text:
            self._tell(text)
        if self.voice.stopped:
            self._end("stop")

    def _tell(self, text: str) -> None:
        self.job.tell(Piece(self.choice, text, tuple(self.untold)))
        self.told += len(self.untold)
        self.untold = []

    def _end(self, reason: Literal["stop", "length"]) -> None:
        self.over = True
        text = self.voice.end()
        self.untold = self.untold[: max(self.voice.spoken - self.told, 0)]
        if text or self.untold:
            self._tell(text)
        self.job.tell(Ended(self.choice, "stop" if self.voice.stopped else reason, self.drawn, self.steered))


@dataclass(eq=False)
class _Group:
    """Responses of like reach, which share their steps."""

    places: Places
    lines: list[_Line] = field(default_factory=list)
    plan: SteeringPlan | None = None

    @property
    def cost(self) -> int:
        """Tokens that its places hold."""
        return self.places.count * self.places.length


@dataclass(eq=False)
class _Reading:
    """A job whose prompt is being read; `at` tokens of it have been."""

    job: Job
    cache: DynamicCache
    at: int
    plan: SteeringPlan


class StepLoop:
    """Runs jobs on a model, on a thread of its own.

    Args:
        model: Nobody else may run it from now on.
        vectors: What jobs that read are read along.

    Raises:
        UserError: The model cannot be decoded in places.
    """

    def __init__(self, model: ChatModel, vectors: Sequence[PersonaVector], settings: ServeSettings) -> None:
        if model.decoding != "places":
            raise UserError(
                f"{model.id} cannot be served: responses cannot come and go between steps, since not every layer "
                "attends to all that came before (a sliding window, say, or a recurrent state), or what one gets "
                "depends on its neighbours (8-bit layers that round what they are given).",
                "Serve another model; `personavec generate` and `personavec chat` take this one.",
            )
        self.model, self.settings, self.meter = model, settings, Meter(vectors)
        self.budget = settings.cache_tokens or model.cache_tokens()
        self._stop_ids = model.stop_ids
        self._tokenizer = copy.deepcopy(model.tokenizer)  # another thread encodes prompts with the model's own
        self._waiting: deque[Job] = deque()
        self._groups: dict[int, _Group] = {}
        self._reading: _Reading | None = None
        self._prefixes = Prefixes(self.budget // KEPT_SHARE)
        self._changed = threading.Condition()
        self._closing = False
        self._pace = 1.0  # seconds from one response's end to the next one's, lately, while any were written
        self._ended = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="personavec-engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Take a job on.

        Raises:
            UserError: It does not fit the context, the memory or the model.
            BusyError: Too many are waiting.
            ClosingError: No more jobs are taken.
        """
        self.model.check_fits(len(job.prompt_ids), job.max_new_tokens)
        if job.n > self.settings.places or job.n * _round(job.tokens) > self.budget:
            raise UserError(
                f"{job.n} responses of up to {job.tokens} tokens each, prompt included, do not fit: there is room for "
                f"{self.settings.places} and for {self.budget} tokens in all.",
                "Ask for fewer or shorter ones.",
            )
        for item in job.interventions:
            if not 1 <= item.layer <= self.model.n_layers or item.direction.shape != (self.model.hidden_size,):
                raise UserError("An intervention does not fit the model.", "Use a vector that was extracted on it.")
        with self._changed:
            if any(other.cancelled for other in self._waiting):  # nobody waits for these; their prompts may be long
                self._waiting = deque(other for other in self._waiting if not other.cancelled)
            waiting = len(self._waiting)
            if self._closing:
                raise ClosingError
            if waiting >= self.settings.queue:
                ahead = sum(other.n for other in self._waiting)
                raise BusyError(min(60, max(1, math.ceil(ahead * self._pace))))
            if not self._busy:
                self._ended = time.monotonic()  # when nobody asked, nothing was slow
            self._waiting.append(job)
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Responses being written: not those that are over, though they keep their places until the next turn."""
        return sum(not line.over for group in list(self._groups.values()) for line in list(group.lines))

    @property
    def alive(self) -> bool:
        """Whether jobs are run."""
        return self._thread.is_alive() and not self._closing

    def name(self, token: int) -> str:
        """The text of a token by itself."""
        text: str = self._tokenizer.decode([token])
        return text

    def close(self) -> None:
        """End: what is still running fails."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        while self._work():
            try:
                self._turn()
            except Exception as error:
                log.exception("A turn of the engine failed; its responses end.")
                self._drop_all(error)
        self._drop_all(ClosingError())
        while self._waiting:
            self._waiting.popleft().fail(ClosingError())

    @property
    def _busy(self) -> bool:
        return bool(self._waiting or self._reading or self._groups)

    def _work(self) -> bool:
        """Wait for some; False: it is over."""
        with self._changed:
            while not (self._busy or self._closing):
                self._changed.wait()
            return not self._closing

    def _turn(self) -> None:
        for group in list(self._groups.values()):
            self._clear(group)
        left = CHUNK
        while left > 0 and (self._reading or self._begin()):
            left -= self._read(left)
        for group in list(self._groups.values()):
            self._step(group)
            self._clear(group)

    def _drop_all(self, error: Exception) -> None:
        if self._reading is not None:
            self._reading.job.fail(error)
        for group in self._groups.values():
            for line in group.lines:
                if not line.over:
                    line.job.fail(error)
        self._reading, self._groups = None, {}
        self._prefixes.clear()

    # Admission, and the reading of prompts

    def _begin(self) -> bool:
        """Begin to read the next prompt, if there is one and a place for its responses."""
        with self._changed:
            while self._waiting and self._waiting[0].cancelled:
                self._waiting.popleft()
            if not self._waiting or self._room(self._waiting[0]) is None:
                return False
            job = self._waiting.popleft()
        try:
            cache, job.reused = self._prefixes.known(_kind(job), job.prompt_ids[:-1])
            self._reading = _Reading(job, cache, job.reused, SteeringPlan([job.interventions]))
        except Exception as error:  # what one job's interventions raise ends that job alone
            job.fail(error)
        return self._reading is not None

    def _room(self, job: Job) -> tuple[int, int, int] | None:
        """The group that a job's responses go to, and how many places of which length it has then; None: no room."""
        kind = max(0, math.ceil(math.log(job.tokens / NARROWEST, WIDER)))
        group = self._groups.get(kind)
        taken, count, length = (len(group.lines), group.places.count, group.places.length) if group else (0, 1, 0)
        length = max(length, _round(job.tokens))
        free = self.budget - sum(other.cost for other in self._groups.values() if other is not group)
        needed, held = taken + job.n, sum(len(other.lines) for other in self._groups.values())
        if held + job.n > self.settings.places or needed * length > free:
            return None
        return kind, max(needed, min(max(count, 1 << (needed - 1).bit_length()), free // length)), length

    def _read(self, most: int) -> int:
        """Read on, at most so many tokens; how many it was (what a join costs counts as one)."""
        reading = self._reading
        assert reading is not None
        ids = reading.job.prompt_ids[:-1]
        piece = ids[reading.at : reading.at + most]
        try:
            if piece and not reading.job.cancelled:
                read_piece(self.model.blocks, reading.cache, piece, reading.plan)
                reading.at += len(piece)
            if reading.job.cancelled:
                self._reading = None
            elif reading.at == len(ids):
                self._reading = None
                self._seat(reading)
        except Exception as error:
            self._reading = None
            reading.job.fail(error)
        return max(len(piece), 1)

    def _seat(self, reading: _Reading) -> None:
        """A prompt has been read: its responses take their places."""
        job = reading.job
        room = self._room(job)
        assert room is not None, "nobody else came since there was"
        kind, count, length = room
        group = self._groups.get(kind)
        if group is None:
            group = _Group(Places(self.model.blocks, count, length))
        elif (count, length) != (group.places.count, group.places.length):
            group.places.grow(count, length)
        for choice in range(job.n):
            group.places.put(len(group.lines), job.prompt_ids, reading.cache if reading.at else None)
            random = np.random.Generator(np.random.Philox(job.seed + choice))
            group.lines.append(_Line(job, choice, Voice(self._text, job.stops), random))
        group.plan, self._groups[kind] = None, group
        if reading.at:
            self._prefixes.keep(_kind(job), job.prompt_ids[:-1], reading.cache)

    # Steps

    def _step(self, group: _Group) -> None:
        for low, states, readings in self._states(group, 0, len(group.lines)):
            lines = group.lines[low : low + len(states)]
            finite = states.isfinite().all(-1)
            tokens = self._choose(torch.where(finite[:, None], states, 0.0), lines)
            group.places.advance([token.id for token in tokens], low)
            for line, token, reading, fine in zip(lines, tokens, readings, finite.tolist(), strict=True):
                if line.job.cancelled:
                    continue
                if not fine:
                    line.job.fail(_not_finite(line.job))
                    continue
                acted = line.acts
                try:
                    line.hear(None if token.id in self._stop_ids else token, reading if line.job.reads else None)
                except Exception as error:
                    line.job.fail(error)
                if line.acts != acted:
                    group.plan = None

    def _states(self, group: _Group, low: int, high: int) -> Iterator[tuple[int, Tensor, list[Reading]]]:
        """Run one step: the first line, last states and readings of each part of the lines that ran.

        All of them at once, unless something raises: then halves of them, so that what one job's intervention raises
        ends that job alone.
        """
        lines = group.lines[low:high]
        seen: dict[int, Tensor] = {}
        try:
            whole = len(lines) == len(group.lines)
            plan = group.plan if whole else None
            if plan is None:
                plan = SteeringPlan([line.interventions for line in lines])
            if whole:
                group.plan = plan
            reads = any(line.job.reads for line in lines)
            with self.model.blocks.watching(self.meter.edits(seen) if reads else {}):
                states = group.places.step(plan, [not line.begun for line in lines], low)
            nothing: list[Reading] = [()] * len(lines)
            readings = self.meter.readings(seen, len(lines)) if reads else nothing
        except Exception as error:
            if len(lines) == 1:
                lines[0].job.fail(error)
                return
            middle = (low + high) // 2
            yield from self._states(group, low, middle)
            yield from self._states(group, middle, high)
        else:
            yield low, states, readings

    def _choose(self, states: Tensor, lines: Sequence[_Line]) -> list[DrawnToken]:
        logits = self.model.head(states)
        told: dict[int, Tensor] = {
            i: logits[i].float().log_softmax(-1) for i, line in enumerate(lines) if line.job.top_logprobs is not None
        }
        if narrowed := [i for i, line in enumerate(lines) if line.job.top_p < 1 and line.job.temperature]:
            logits = logits.clone()
            for i in narrowed:
                logits[i] = nucleus(logits[i], lines[i].job.temperature, lines[i].job.top_p)
        chosen = draw(logits, [line.job.temperature for line in lines], [line.random.random() for line in lines])
        return [_with_logprobs(token, told.get(i), lines[i].job) for i, token in enumerate(chosen)]

    def _clear(self, group: _Group) -> None:
        """Free the places of what is over."""
        for i in reversed(range(len(group.lines))):
            if group.lines[i].over or group.lines[i].job.cancelled:
                group.places.leave(i, len(group.lines) - 1)
                group.lines[i] = group.lines[-1]
                group.lines.pop()
                group.plan = None
                now = time.monotonic()
                self._pace, self._ended = 0.9 * self._pace + 0.1 * (now - self._ended), now
        if not group.lines:
            self._groups = {kind: other for kind, other in self._groups.items() if other is not group}

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def _round(tokens: int) -> int:
    return -(-tokens // STEP) * STEP


def _kind(job: Job) -> tuple[str, ...]:
    """What jobs must have in common for one to go on from what was read for another."""
    return str(job.client), *(item.fingerprint() for item in job.interventions if item.positions != "response")


def _with_logprobs(token: int, logprobs: Tensor | None, job: Job) -> DrawnToken:
    if logprobs is None or job.top_logprobs is None:
        return DrawnToken(token)
    values, ids = logprobs.topk(job.top_logprobs)
    return DrawnToken(token, float(logprobs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))


def _not_finite(job: Job) -> UserError:
    if job.interventions:
        return UserError("The model's states are no longer finite numbers under this steering.", "Steer less.")
    return UserError("The model's states are not finite numbers.", "Serve it in another dtype, such as float32.")
