"""Deliveries as lines: one for people, or one JSON object for programs."""

from __future__ import annotations

import json
from typing import Any

import orjson

from millstream.gateway.console.cleaning import clean_json, in_line, plain_name
from millstream.gateway.console.time_parsing import time_text
from millstream.schemas.base import Address, Event, Reason, Usage
from millstream.schemas.control.commands import ControlCommand
from millstream.schemas.control.migrations import RunMigration, RunMigrationAnswered
from millstream.schemas.control.templates import TemplateApplied
from millstream.schemas.dead_letters import DeadLetter, DeadLetterRedriven
from millstream.schemas.events import (
    UNPRICED,
    AgentRequest,
    AgentResult,
    AgentToken,
    AttemptStarted,
    CheckpointSaved,
    CostRecorded,
    Decision,
    SessionUpdated,
)
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.lane_events import (
    CommandObeyed,
    HoldPlaced,
    LaneOpened,
    LaneSnapshot,
    RequestsDeferred,
    RunParked,
    StageRequest,
)
from millstream.schemas.runs.reservations import CallReserved
from millstream.schemas.sessions.commands import SessionCommand
from millstream.schemas.sessions.states import SessionAnswered, SessionChanged, SessionState
from millstream.schemas.steps import AgentStep
from millstream.streams.bus.api import Delivery, Unreadable
from millstream.streams.wire.codec import rfc3339
from millstream.streams.wire.partitioning import home_partition
from millstream.streams.wire.records import with_kept_headers

__all__ = [
    "entry_json",
    "entry_line",
    "how_completed",
    "money",
    "one_line",
    "reason_text",
    "step_text",
    "structured_text",
    "tokens_text",
    "what",
    "written_line",
]

_TEXT_CHARACTERS_MAX = 160
_ID_CHARACTERS_MAX = 12
_SECONDS_FROM_MS = 10_000


def entry_line(
    entry: Delivery | Unreadable, namespace: str, *, partitions: int | None = None
) -> str:
    """Give `time  topic-partition@offset  user  request  attempt  session  what`, in UTC.

    The topic is without its namespace; `-` stands for what an event has not, and an id that is
    longer than 12 characters is cut. With the number of partitions, a request or command that
    arrived at another partition than its user's home is told to be rerouted.
    """
    if isinstance(entry, Unreadable):
        return _line(entry, namespace, f"unreadable: {one_line(str(entry.error))}")
    return _line(entry, namespace, what(entry.event) + _rerouted(entry, namespace, partitions))


def written_line(first: Delivery, last: Delivery, text: str, namespace: str) -> str:
    """Give the line of several tokens that one attempt wrote without anything in between."""
    assert isinstance(first.event, AgentToken)  # noqa: S101  what the caller gathers
    assert isinstance(last.event, AgentToken)  # noqa: S101
    seqs = f"{first.event.seq}" if first is last else f"{first.event.seq} to {last.event.seq}"
    told = f"writes (attempt {first.event.attempt}, {seqs}): {one_line(text)}"
    return _line(first, namespace, told)


def entry_json(entry: Delivery | Unreadable) -> str:
    """Give as JSON where the record stands, the time (RFC 3339, the broker's), and the event.

    A record that cannot be read has `unreadable`, with `code` and `message`, instead of `event`.
    """
    address = entry.address
    body: dict[str, Any] = {
        "topic": address.topic,
        "partition": address.partition,
        "offset": address.offset,
        "time": rfc3339(entry.at_ms).decode(),
    }
    if isinstance(entry, Unreadable):
        body["unreadable"] = {"code": entry.error.code, "message": str(entry.error)}
        return clean_json(orjson.dumps(body).decode())
    event = entry.event
    # An earlier version wrote all headers into it, secrets among them.
    shown = with_kept_headers(event) if isinstance(event, DeadLetter) else event
    told = shown.__pydantic_serializer__.to_json(shown, exclude_none=True)
    place = orjson.dumps(body)
    return clean_json((place[:-1] + b',"event":' + told + b"}").decode())


def what(event: Event) -> str:  # noqa: C901, PLR0911, PLR0912, PLR0915  one case per kind of event
    """Say in a line what an event tells."""
    match event:
        case AgentRequest():
            told = [block.label for block in event.content or ()]
            return f"asks {event.template}: {one_line(' '.join([event.input, *told]))}"
        case StageRequest():
            return f"request {event.request.request_id} goes on to stage {event.stage}"
        case AgentToken():
            return f"token {event.attempt}/{event.seq}: {one_line(event.text)!r}"
        case AgentStep():
            return f"{step_text(event)} (attempt {event.attempt}, step {event.seq})"
        case AgentResult():
            return _result(event)
        case Decision():
            return _decision(event)
        case AttemptStarted():
            cost = f"may cost up to {money(event.reserved_micros)}"
            cost = "has no price" if event.price_digest == UNPRICED else cost
            return f"begins attempt {event.attempt} on {event.model}, which {cost}"
        case CallReserved():
            most = money(event.reserved_micros)
            return f"calls {event.model} again, after which the run may have cost up to {most}"
        case CostRecorded(price_digest=digest) if digest == UNPRICED:
            return f"used {event.model}, which has no price ({tokens_text(event.usage)})"
        case CostRecorded():
            return (
                f"spent {money(event.cost_micros)} on {event.model} ({tokens_text(event.usage)})"
                + (", estimated" if event.estimated else "")
            )
        case JournalStep():
            return _journalled(event)
        case CheckpointSaved():
            return f"checkpoint of session {event.session_id}, turn {event.turn}{_again(event)}"
        case SessionUpdated():
            return f"session {event.session_id} is at turn {event.turn}"
        case RunParked(waits_for=wanted) if wanted is not None:
            version = "" if wanted.version is None else f", version {wanted.version}"
            tools = f" with {', '.join(wanted.tools)}" if wanted.tools else ""
            waits = f"waits for template {wanted.template}{version}{tools}"
            return one_line(f"request {event.request_id} {waits}")
        case RunParked():
            return f"request {event.request_id} waits ({event.tries} attempts so far)"
        case TemplateApplied():
            done = "retires" if event.retired else "applies"
            whose = f"{event.by} " if event.by else "somebody "
            return f"{whose}{done} template {event.name}, version {event.version}"
        case HoldPlaced():
            return f"{event.request_id or f'all of session {event.session_id}'} is paused"
        case RequestsDeferred():
            return f"what waits on {event.input} from {event.from_offset} on is left there"
        case ControlCommand(command="drain"):
            return f"asks worker {event.worker} to hand over and end"
        case ControlCommand():
            target = event.request_id or f"all of session {event.session_id}"
            return f"asks to {event.command} {target}"
        case CommandObeyed():
            target = event.request_id or f"all of session {event.session_id}"
            lacked = ", which was not paused" if event.was_paused is False else ""
            lacked += ", which had ended" if event.had_ended else ""
            return f"obeyed: {event.command} {target}{lacked}"
        case RunMigration():
            asks = "asks whether it can go on" if event.dry_run else "asks to go on"
            return f"{asks} with version {event.to_version}"
        case RunMigrationAnswered(refused=None):
            return event.told
        case RunMigrationAnswered():
            return f"stays as it is, {reason_text(event.refused)}"
        case SessionCommand():
            asked = f"asks to {event.operation} {_which(event.session_id)}"
            return asked + _by(event.by, event.why)
        case SessionChanged():
            turn = f" to turn {event.restored_turn}" if event.restored_turn is not None else ""
            changed = f"{_which(event.session_id)} is {event.change}{turn}"
            return changed + _by(event.by, event.why)
        case SessionAnswered():
            became = "done" if event.refused is None else reason_text(event.refused)
            return f"{event.operation} {_which(event.session_id)}: {became}"
        case SessionState():
            return f"session {event.session_id} is {event.state}, revision {event.revision}"
        case LaneOpened():
            return (
                f"worker {event.worker} took over {event.stage} {event.partition}, "
                f"generation {event.generation}"
            )
        case LaneSnapshot():
            return f"knows {event.stage} {event.partition}: {event.part}"
        case DeadLetter():
            return f"unreadable record {event.source}: {reason_text(event.reason)}"
        case DeadLetterRedriven():
            mended = ", mended" if event.mended else ""
            return f"unreadable record {event.source} was put back as {event.redriven_as}{mended}"
        case _:
            return one_line(event.model_dump_json(exclude_none=True))


def _which(session_id: str | None) -> str:
    return "all sessions" if session_id is None else f"session {session_id}"


def _by(who: str | None, why: str | None) -> str:
    """Say who asked for something and why, as far as that was given."""
    told = f" by {one_line(who)}" if who else ""
    return told + (f": {one_line(why)}" if why else "")


def step_text(step: AgentStep) -> str:  # noqa: C901, PLR0911  a line for each kind
    """Say in a line what a step of a run tells; a line that goes to a tool begins with an arrow."""
    name = one_line(step.name or "a tool")
    told = ", recorded before" if step.recorded else ""
    match step.kind:
        case "model_start":
            return f"asks {name}{told}"
        case "model_end":
            spent = "" if step.usage is None else f": {tokens_text(step.usage)}"
            return f"{name} has answered{_took(step)}{spent}{told}"
        case "model_error":
            return f"{name} failed{_took(step)}, {reason_text(step.reason)}"
        case "tool_start":
            return f"→ {name}({_arguments(step)}){told}"
        case "tool_end":
            more = " …" if step.result_cut else ""
            return f"← {one_line(step.result or '')}{more}{_took(step)}{told}"
        case "tool_error":
            return f"← {name} failed{_took(step)}, {reason_text(step.reason)}{told}"
        case "retry":
            return f"tries again, since {reason_text(step.reason)}"
        case "fallback":
            failed = one_line(step.failed_model or "its model")
            return f"asks {name} instead of {failed}, since {reason_text(step.reason)}"
        case "restart":
            return "begins, since any attempt before it was lost or stopped"
        case "resumed":
            return "goes on after a pause"
        case "paused":
            return "is paused"
        case "cancelled":
            return "is cancelled"


def _journalled(step: JournalStep) -> str:
    name, began = one_line(step.name or "a tool"), step.began
    told = {
        "answered": "keeps the answer of its model",
        "beside": "keeps the answer of a middleware's model",
        "intent": f"is about to call {name} ({step.effect}, {step.call_id})",
        "done": f"keeps the answer of {name} ({step.call_id})",
        "repair": "has an answer to be given anew",
        "moved": "goes on with another version" if began is None else began.told,
    }
    return f"{told.get(step.kind, one_line(step.kind))} (journal, step {step.step}{_again(step)})"


def _again(event: JournalStep | CheckpointSaved) -> str:
    return "" if event.renewed_ms is None else ", written anew"


def _arguments(step: AgentStep) -> str:
    """Give a call's arguments as they stand in code, or as they came where they are no object."""
    if step.arguments is None:
        return ""
    if not step.arguments_cut:
        try:
            given = json.loads(step.arguments)
        except ValueError:
            given = None
        if isinstance(given, dict):
            shown = (f"{name}={json.dumps(one, ensure_ascii=False)}" for name, one in given.items())
            return one_line(", ".join(shown))
    return one_line(step.arguments) + (" …" if step.arguments_cut else "")


def _took(step: AgentStep) -> str:
    if step.duration_ms is None or step.recorded:
        return ""
    if step.duration_ms < _SECONDS_FROM_MS:
        return f" in {step.duration_ms} ms"
    return f" in {step.duration_ms / 1000:.1f} s"


def reason_text(reason: Reason | None, *, whole: bool = False) -> str:
    """Give a reason's code and the beginning of its words, or all of them, in one line."""
    if reason is None:
        return "no reason given"
    return f"{reason.code}: {in_line(reason.message) if whole else one_line(reason.message)}"


def how_completed(result: AgentResult) -> str:
    """Say that a request completed, and what its answer lacks if it was cut."""
    match result.finish_reason:
        case "length":
            return "completed (cut at its limit of tokens: raise output_tokens_max)"
        case "content_filter":
            return "completed (cut by its provider's filter)"
        case _:
            return "completed"


def structured_text(result: AgentResult) -> str | None:
    """Give a structured answer as JSON where it is in no text, as when it came as a tool's call."""
    if result.structured is None or (result.output or "").strip():
        return None
    return json.dumps(result.structured, ensure_ascii=False)


def money(micros: int) -> str:
    """Give millionths of a US dollar in dollars, to the last of them."""
    sign = "-" if micros < 0 else ""
    whole, rest = divmod(abs(micros), 1_000_000)
    return f"{sign}${whole:,}.{rest:06d}"


def tokens_text(usage: Usage) -> str:
    """Give what a model read and wrote."""
    return f"{usage.input_tokens} tokens in, {usage.output_tokens} out"


def one_line(text: str) -> str:
    """Give a text's beginning without line breaks or control characters, which a terminal obeys."""
    shown = in_line(text[: _TEXT_CHARACTERS_MAX + 1])
    return shown if len(text) <= _TEXT_CHARACTERS_MAX else shown[: _TEXT_CHARACTERS_MAX - 1] + "…"


def _line(entry: Delivery | Unreadable, namespace: str, told: str) -> str:
    event = None if isinstance(entry, Unreadable) else entry.event
    user = "-" if event is None else plain_name(_user(event))
    request, session = (_id(getattr(event, name, None)) for name in ("request_id", "session_id"))
    attempt = getattr(event, "attempt", None)
    run = f"{request:<12}  {'-' if attempt is None else attempt:<7}  {session:<12}"
    place = _place(entry.address, namespace)
    # In a name of a template or a worker, too, may stand what a terminal would obey.
    return in_line(f"{time_text(entry.at_ms)}  {place:<18}  {user:<8}  {run}  {told}")


def _place(address: Address, namespace: str) -> str:
    topic = address.topic.removeprefix(f"{namespace}.")
    return f"{topic}-{address.partition}@{address.offset}"


def _id(name: str | None) -> str:
    if name is None:
        return "-"
    cut = name if len(name) <= _ID_CHARACTERS_MAX else name[: _ID_CHARACTERS_MAX - 1] + "…"
    return plain_name(cut)


def _rerouted(entry: Delivery, namespace: str, partitions: int | None) -> str:
    """Say where a request or command came from or goes to, if that is not where it stands."""
    here, came = entry.address, entry.came_as
    if came is not None:
        how = "put back" if came.partition == here.partition else "rerouted"
        return f" ({how}: it came as {_place(came, namespace)})"
    if partitions is None or not isinstance(
        entry.event, AgentRequest | ControlCommand | RunMigration
    ):
        return ""
    home = home_partition(entry.event.partition_key, partitions)
    return "" if home == here.partition else f" (rerouted to partition {home})"


def _user(event: Event) -> str:
    match event:
        case LaneOpened() | LaneSnapshot():
            return "-"
        case DeadLetter() | DeadLetterRedriven() if event.user_id == "unknown":
            return "-"
        case _ if "/" in event.user_id:  # as a policy writes such a user
            return f"{event.tenant}/{event.user_id}"
        case _:
            return event.partition_key


def _result(event: AgentResult) -> str:
    if event.status != "completed":
        return f"{event.status}, {reason_text(event.reason)}"
    answer = structured_text(event) or event.output
    output = "" if answer is None else f": {one_line(answer)}"
    # Nothing was spent, or the model has no price: the records of costs say which.
    cost = f", {money(event.cost_micros)}" if event.cost_micros else ""
    return f"{how_completed(event)}, {tokens_text(event.usage)}{cost}{output}"


def _decision(event: Decision) -> str:
    if event.admitted:
        return f"admitted by {', '.join(event.passed) or 'no layer'}"
    by = "" if event.layer is None else f" by {event.layer}"
    return f"rejected{by}, {reason_text(event.reason)}"
