"""What is done with the readings of every answer: logged, held against limits, told to whoever wants alarms."""

import hashlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from personavec.errors import UserError
from personavec.serving.delivery import OUTCOMES, Delivery, to_address, to_file
from personavec.serving.metrics import Metrics
from personavec.vector import PersonaVector, reading_sides
from personavec.watching.live import Watch
from personavec.watching.log import LoggedAnswer, LoggedReading
from personavec.watching.result import Alarm, Limits

log = logging.getLogger(__name__)

REMEMBERED = 10_000  # answers whose conversations are known by what was said
Json = dict[str, JsonValue]


@dataclass(frozen=True)
class Said:
    """What was said before an answer.

    Attributes:
        name: Of the conversation, where the client gives one.
        turn: How many answers it held before.
        begun: A digest of it through the last answer; "" where there is none.
        whole: A digest of all of it.
        question: What the user said last; None: texts are not kept.
    """

    name: str | None = None
    turn: int = 0
    begun: str = ""
    whole: str = ""
    question: str | None = None


def named(conversation: str | None, client: int) -> str | None:
    """What a conversation is called among those of all clients; `client`: whose it is, 0 where there are no keys."""
    return f"key {client}: {conversation}" if conversation is not None and client else conversation


@dataclass(frozen=True)
class Observed:
    """One answer, as far as it is there.

    Attributes:
        id: Of the answer.
        model: As the client called it.
        steering: In words.
        said: Before it.
        prompt, summary: Readings by trait, in numbers that clients get.
        tokens: Of the answer.
        text: The answer.
        abandoned: Whether it did not come to its end.
        told: Traits that its client hears of.
    """

    id: str
    model: str
    steering: tuple[str, ...]
    said: Said
    prompt: Json
    summary: Json
    tokens: int = 0
    text: str = ""
    abandoned: bool = False
    told: Sequence[str] = ()


class Observer:
    """Looks at every answer of a server.

    Args:
        limits: What alarms are raised by; None: none are.
        log: File that gets a line for every answer.
        log_text: Whether that has the texts, too.
        webhook: Where alarms are posted to, as JSON without any text.

    Raises:
        UserError: Limits of other vectors or of traits that are not served, a file that cannot be written, or a
            webhook that is no address; texts without a log, or a webhook without limits.
    """

    def __init__(
        self,
        vectors: Sequence[PersonaVector],
        *,
        limits: Limits | None = None,
        log: Path | None = None,
        log_text: bool = False,
        webhook: str | None = None,
    ) -> None:
        if log_text and log is None:
            raise UserError("`log_text` needs a log.", "Name its file with `log`.")
        if webhook is not None and limits is None:
            raise UserError("Without limits there is no alarm for a webhook.", "Name a file with `limits`.")
        self.hashes = {vector.trait: vector.hash for vector in reading_sides(vectors)}
        if limits is not None:
            _check(limits, self.hashes)
        self.watch = None if limits is None else Watch(limits)
        self.log_text = log_text
        self._metrics: Metrics | None = None
        self._log = None if log is None else Delivery("log", to_file(log), lambda end: self._count("log", end))
        self._webhook = (
            None
            if webhook is None
            else Delivery("webhook", to_address(webhook), lambda end: self._count("webhook", end))
        )
        self._known: OrderedDict[str, tuple[str, int]] = OrderedDict()  # conversation and turn, by what was said
        self._secret = secrets.token_bytes(16)  # so that nobody finds out by trial what a name in a log stands for

    def counting(self, metrics: Metrics) -> "Observer":
        """The same, with its figures among a server's."""
        self._metrics = metrics
        if self.watch is not None:
            metrics.watch_traffic(self.watch)
        for delivery in filter(None, (self._log, self._webhook)):
            for outcome in OUTCOMES:
                metrics.deliveries.labels(delivery.name, outcome)  # at 0, so that the first one that fails shows
        return self

    @property
    def limits(self) -> Limits | None:
        """What alarms are raised by."""
        return None if self.watch is None else self.watch.limits

    @property
    def traits(self) -> list[str]:
        """What every answer is read along, whatever its client asks; nothing where nobody looks."""
        return [] if self.watch is None and self._log is None else list(self.hashes)

    def close(self) -> None:
        """Deliver what is left."""
        for one in (self._log, self._webhook):
            if one is not None:
                one.close()

    def said(self, messages: Sequence[Mapping[str, Any]], name: str | None, client: int = 0) -> Said:
        """What was said before an answer, as it is needed to know the conversation again.

        Args:
            name: That the client gives it.
            client: Whose it is, see `Job`: what two clients say alike, or call alike, is two conversations.
        """
        digest, begun, turn, asked = self._digest("", str(client or "")), "", 0, ""
        for message in messages:
            text = str(message.get("content") or "")
            digest = self._digest(digest, f"{message['role']}\n{text.strip()}")
            if message["role"] == "assistant":
                begun, turn = digest, turn + 1
            elif message["role"] == "user":
                asked = text
        return Said(named(name, client), turn, begun, digest, asked if self.log_text else None)

    def begun(self, answer: Observed) -> list[Json]:
        """What alarms before the first token: it is told at once, whether or not the answer comes to its end."""
        if self.watch is None or answer.steering != self.watch.limits.steering:
            return []
        before = _values(answer.prompt, "value", "z")
        alarms = self.watch.before(before)
        if alarms:
            conversation, turn = self._place(answer.said)
            about: Json = {
                "id": answer.id, "conversation": conversation, "turn": turn, "time": _now(), "model": answer.model,
                "traits": {trait: {"before": value} for trait, value in before.items()},
                "vectors": {trait: self.hashes[trait] for trait in before}, "steering": [*answer.steering],
            }  # fmt: skip
            self._tell(about, alarms)
        return [alarm.as_json() for alarm in alarms if alarm.trait in answer.told]

    def ended(self, answer: Observed) -> Json:
        """Book an answer, as far as it came: what clients are told beside its summary; empty without limits."""
        conversation, turn = self._conversation(answer)
        line = LoggedAnswer(
            id=answer.id, conversation=conversation, turn=turn, time=_now(), model=answer.model,
            traits=_readings(answer), steering=answer.steering, tokens=answer.tokens, abandoned=answer.abandoned,
            vectors={trait: self.hashes[trait] for trait in answer.summary},
            question=answer.said.question, text=answer.text if self.log_text else None,
        )  # fmt: skip
        told, alarms = self._held(line, answer.told)
        if alarms:
            line = line.model_copy(update={"alarms": tuple(alarm.rule for alarm in alarms)})
            about = line.model_dump(mode="json", exclude={"question", "text", "alarms"})
            self._tell(about, [alarm for alarm in alarms if alarm.rule != "before"])  # of that one `begun` told
        if self._log is not None and line.traits:
            self._log.put(line.model_dump(mode="json", exclude_none=True))
        return told

    def _held(self, line: LoggedAnswer, told: Sequence[str]) -> tuple[Json, list[Alarm]]:
        """What the limits say of an answer, along the traits that are told, and what alarms, along any."""
        if self.watch is None or not line.traits:
            return {}, []
        if line.steering != self.watch.limits.steering:
            return {"alarms": None} if told else {}, []  # steered in another way than what is normal here
        sides = {side: {t: getattr(one, side) for t, one in line.traits.items()} for side in ("before", "max", "mean")}
        alarms = [*self.watch.before(sides["before"]), *self.watch.after(line.conversation, line.turn, line.traits)]
        if not told:
            return {}, alarms
        heard = {side: {t: value for t, value in one.items() if t in told} for side, one in sides.items()}
        z: Json = {
            "before": {**self.watch.z("before", heard["before"])},
            "during": {**self.watch.z("during", heard["max"])},
        }
        return {"normal_z": z, "alarms": [alarm.as_json() for alarm in alarms if alarm.trait in told]}, alarms

    def _tell(self, about: Json, alarms: Sequence[Alarm]) -> None:
        for alarm in alarms:
            log.warning(
                "Alarm (%s): %s at %.2f, above %.2f, in answer %s of conversation %s.",
                alarm.rule, alarm.trait, alarm.z, alarm.limit, about["id"], about["conversation"] or "(new)",
            )  # fmt: skip
            if self._metrics is not None:
                self._metrics.alarms.labels(alarm.rule, alarm.trait).inc()
        if self._webhook is not None and alarms:
            self._webhook.put({"event": "alarm", **about, "alarms": [alarm.as_json() for alarm in alarms]})

    def _conversation(self, answer: Observed) -> tuple[str, int]:
        """The name and turn of an answer's conversation: given by the client, known by what was said, or new."""
        said = answer.said
        after = self._digest(said.whole, f"assistant\n{answer.text.strip()}") if said.whole else answer.id
        place, turn = self._place(said)
        name = f"c-{after[:16]}" if place is None else place
        if said.name is not None:
            keys = [f"{name} {digest}" for digest in (said.whole, after, "")]
        else:
            keys = [key for key in (said.begun, after) if key]
        for key in keys:
            self._known.pop(key, None)
            self._known[key] = (name, turn)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return name, turn

    def _place(self, said: Said) -> tuple[str | None, int]:
        """The name and turn of the conversation of what was said; None: its first answer will tell the name."""
        if said.name is not None:
            return said.name, self._named_turn(said.name, said)
        known = self._known.get(said.begun)
        begun = f"c-{said.begun[:16]}" if said.begun else None
        return known[0] if known else begun, said.turn

    def _named_turn(self, name: str, said: Said) -> int:
        """Which turn of a named conversation it is, though the client may tell less than all of its history.

        What was asked before is the same turn again; what goes on from a known answer is the next one after that; and
        of any other history the next one after the last, or as many turns as it tells if these are more.
        """
        if said.whole and (again := self._known.get(f"{name} {said.whole}")) is not None:
            return again[1]
        before = self._known.get(f"{name} {said.begun}") or self._known.get(f"{name} ")
        return said.turn if before is None else max(said.turn, before[1] + 1)

    def _digest(self, before: str, text: str) -> str:
        digest = hashlib.blake2b(f"{before}\n{text}".encode("utf-8", "replace"), digest_size=16, key=self._secret)
        return digest.hexdigest()

    def _count(self, what: str, end: str) -> None:
        if self._metrics is not None:
            self._metrics.deliveries.labels(what, end).inc()


def _check(limits: Limits, hashes: Mapping[str, str]) -> None:
    missing = [trait for trait in limits.traits if trait not in hashes]
    if missing:
        raise UserError(
            f"The limits are of {', '.join(limits.traits)}, and no vector of {', '.join(missing)} is served.",
            "Name all their files with `vector`, or calibrate limits of the traits that are served.",
        )
    for trait, hash in limits.vectors.items():
        if hashes[trait] != hash:
            raise UserError(
                f"The limits were made with another vector of {trait} ({hash}, served is {hashes[trait]}).",
                "Serve that one, or calibrate limits with this one.",
            )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _value(found: JsonValue, plain: str, z: str) -> float:
    """In deviations of neutral answers, or raw where these are not known."""
    assert isinstance(found, dict)
    value = found[plain] if found[z] is None else found[z]
    assert isinstance(value, float | int)
    return float(value)


def _values(found: Json, plain: str, z: str) -> dict[str, float]:
    return {trait: _value(one, plain, z) for trait, one in found.items()}


def _readings(answer: Observed) -> dict[str, LoggedReading]:
    prompt = _values(answer.prompt, "value", "z")
    means, most = _values(answer.summary, "mean", "z"), _values(answer.summary, "max", "max_z")
    return {trait: LoggedReading(before=prompt[trait], mean=means[trait], max=most[trait]) for trait in means}
