"""Every kind of event has a line for people and a line of JSON."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel

from millstream.gateway.console.rendering import entry_json, entry_line, money, one_line, what
from millstream.schemas.any_event import EVENT_TYPES
from millstream.schemas.base import Address, Event, Reason, Usage
from millstream.schemas.control.commands import ControlCommand
from millstream.schemas.control.migrations import RunMigration, RunMigrationAnswered
from millstream.schemas.dead_letters import DeadLetterRedriven, NotJson
from millstream.schemas.events import AgentRequest, ResolvedRequest
from millstream.schemas.journal.steps import JournalStep, RunBegan
from millstream.schemas.lane_events import (
    HoldPlaced,
    LaneSnapshot,
    RequestsDeferred,
    RunParked,
    StageRequest,
    TemplateWait,
)
from millstream.schemas.runs.reservations import CallReserved
from millstream.schemas.sessions.commands import SessionCommand
from millstream.schemas.sessions.states import SessionAnswered, SessionChanged, SessionState
from millstream.streams.bus.api import Delivery, Unreadable
from millstream.streams.wire.partitioning import home_partition
from tests import making

PLACE = Address(topic="ns.results", partition=1, offset=7)
IDS = {"user_id": "ada", "request_id": "r", "session_id": "s"}
REQUEST = making.request(input="Hi\nthere", request_id="r", session_id="s")

SESSION = SessionState(
    user_id="ada",
    session_id="s",
    state="closed",
    revision=2,
    created_at_ms=1,
    since_ms=2,
    active_at_ms=1,
)

CASES: tuple[tuple[Event, str], ...] = (
    (REQUEST, "asks chat_agent: Hi there"),
    (
        StageRequest(
            user_id="ada", stage="executor", passed=(), request=REQUEST.resolved(PLACE, 1)
        ),
        "request r goes on to stage executor",
    ),
    (making.token(**IDS, attempt=1000, seq=2, text=" is"), "token 1000/2: ' is'"),
    (
        making.result(
            **IDS,
            status="completed",
            output="Paris.",
            source=PLACE,
            accepted_at_ms=1,
            usage=Usage(input_tokens=3, output_tokens=2),
            cost_micros=14,
        ),
        "completed, 3 tokens in, 2 out, $0.000014: Paris.",
    ),
    (
        making.result("", structured={"answer": "Città"}),
        'completed, 0 tokens in, 0 out: {"answer": "Città"}',
    ),
    (
        making.result("Par", finish_reason="length"),
        (
            "completed (cut at its limit of tokens: raise output_tokens_max), "
            "0 tokens in, 0 out: Par"
        ),
    ),
    (
        making.result("Par", finish_reason="content_filter"),
        "completed (cut by its provider's filter), 0 tokens in, 0 out: Par",
    ),
    (
        making.result(
            **IDS,
            status="rejected",
            reason=Reason(code="forbidden", message="no"),
            source=PLACE,
            accepted_at_ms=1,
        ),
        "rejected, forbidden: no",
    ),
    (
        making.decision(**IDS, admitted=True, passed=("auth", "cost"), generation=1, source=PLACE),
        "admitted by auth, cost",
    ),
    (
        making.decision(
            **IDS,
            admitted=False,
            layer="auth",
            reason=Reason(code="forbidden", message="no"),
            generation=1,
            source=PLACE,
        ),
        "rejected by auth, forbidden: no",
    ),
    (
        making.decision(
            **IDS,
            admitted=False,
            layer=None,
            reason=Reason(code="unknown_template", message="no"),
            generation=1,
            source=PLACE,
        ),
        "rejected, unknown_template: no",
    ),
    (
        making.attempt(
            **IDS,
            attempt=1000,
            model="m",
            usage_max=Usage(input_tokens=3, output_tokens=2),
            reserved_micros=14,
            price_digest="d",
        ),
        "begins attempt 1000 on m, which may cost up to $0.000014",
    ),
    (
        making.cost(
            **IDS,
            model="local",
            usage=Usage(input_tokens=3, output_tokens=2),
            cost_micros=1_500_000,
            price_digest="d",
            estimated=True,
        ),
        "spent $1.500000 on local (3 tokens in, 2 out), estimated",
    ),
    (
        making.checkpoint(**IDS, checkpoint_id="c", turn=2, data=""),
        "checkpoint of session s, turn 2",
    ),
    (
        making.head(**IDS, checkpoint_id="c", checkpoint_offset_min=0, turn=2, created_at_ms=1),
        "session s is at turn 2",
    ),
    (
        RunParked(
            **IDS,
            request=ResolvedRequest(
                user_id="ada", request_id="r", session_id="s", input="x", source=PLACE
            ),
            decision=making.decision(**IDS, admitted=True, generation=1, source=PLACE),
            order=7,
            tries=2,
        ),
        "request r waits (2 attempts so far)",
    ),
    (
        RunParked(
            **IDS,
            request=ResolvedRequest(
                user_id="ada", request_id="r", session_id="s", input="x", source=PLACE
            ),
            decision=making.decision(**IDS, admitted=False, generation=1, source=PLACE),
            undecided=True,
            waits_for=TemplateWait(template="new", version="2", since_ms=1),
            order=7,
        ),
        "request r waits for template new, version 2",
    ),
    (
        RunParked(
            **IDS,
            request=ResolvedRequest(
                user_id="ada", request_id="r", session_id="s", input="x", source=PLACE
            ),
            decision=making.decision(**IDS, admitted=True, generation=1, source=PLACE),
            waits_for=TemplateWait(template="new", version="2", tools=("a", "b"), since_ms=1),
            order=7,
        ),
        "request r waits for template new, version 2 with a, b",
    ),
    (
        making.template_applied(by="ada"),
        "ada applies template own, version 1",
    ),
    (
        making.template_applied(retired=True),
        "somebody retires template own, version 1",
    ),
    (HoldPlaced(user_id="ada", session_id="s"), "all of session s is paused"),
    (HoldPlaced(user_id="ada", request_id="r"), "r is paused"),
    (
        RequestsDeferred(user_id="ada", input="requests", from_offset=7),
        "what waits on requests from 7 on is left there",
    ),
    (ControlCommand(user_id="ada", command="cancel", request_id="r"), "asks to cancel r"),
    (
        ControlCommand(user_id="ada", command="drain", worker="w"),
        "asks worker w to hand over and end",
    ),
    (
        making.obeyed(session_id="s", source=PLACE),
        "obeyed: cancel all of session s",
    ),
    (
        making.obeyed(command="resume", request_id="r", source=PLACE, was_paused=False),
        "obeyed: resume r, which was not paused",
    ),
    (
        making.obeyed(command="pause", request_id="r", source=PLACE, had_ended=True),
        "obeyed: pause r, which had ended",
    ),
    (
        making.opened(partition=3, generation=4),
        "worker w took over chain 3, generation 4",
    ),
    (
        LaneSnapshot(stage="chain", partition=3, generation=4, part="ids-7", data=""),
        "knows chain 3: ids-7",
    ),
    (
        making.dead_letter(reason=Reason(code="not_json", message="no"), source=PLACE),
        "unreadable record ns.results-1-7: not_json: no",
    ),
    (
        DeadLetterRedriven(source=PLACE, redriven_as=PLACE, mended=True),
        "unreadable record ns.results-1-7 was put back as ns.results-1-7, mended",
    ),
    (
        making.step(name="calculator", arguments='{"expression": "12*12"}'),
        '→ calculator(expression="12*12") (attempt 1000, step 0)',
    ),
    (
        making.step("tool_start", name="f", arguments='{"a": "xxx', arguments_cut=True),
        '→ f({"a": "xxx …) (attempt 1000, step 0)',
    ),
    (
        making.step("tool_end", 1, name="calculator", result="144", duration_ms=3),
        "← 144 in 3 ms (attempt 1000, step 1)",
    ),
    (
        making.step("tool_end", 1, name="f", result="a\x1b[31m\nb", duration_ms=12_345),
        "← a [31m b in 12.3 s (attempt 1000, step 1)",
    ),
    (
        making.step("tool_end", 1, name="f", result="4", duration_ms=0, recorded=True),
        "← 4, recorded before (attempt 1000, step 1)",
    ),
    (
        making.step("tool_error", 1, name="f", reason=Reason(code="tool_failed", message="no")),
        "← f failed, tool_failed: no (attempt 1000, step 1)",
    ),
    (
        making.step("fallback", name="b", failed_model="a", reason=Reason(code="x", message="y")),
        "asks b instead of a, since x: y (attempt 1000, step 0)",
    ),
    (
        making.step("retry", reason=Reason(code="x", message="y")),
        "tries again, since x: y (attempt 1000, step 0)",
    ),
    (
        making.request(
            input="Hi",
            content=[{"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}],
        ),
        "asks chat_agent: Hi [image/png, 8 B]",
    ),
    (
        SessionCommand(user_id="ada", command_id="c", operation="close", why="done\n!", by="bob"),
        "asks to close all sessions by bob: done !",
    ),
    (SESSION, "session s is closed, revision 2"),
    (
        SessionChanged(
            user_id="ada",
            session_id="s",
            change="restored",
            state="open",
            revision=3,
            restored_turn=2,
        ),
        "session s is restored to turn 2",
    ),
    (
        SessionAnswered(
            user_id="ada",
            command_id="c",
            operation="touch",
            session_id="s",
            refused=Reason(code="session_closed", message="reopen it first"),
            source=PLACE,
        ),
        "touch session s: session_closed: reopen it first",
    ),
    (
        CallReserved(
            user_id="ada",
            request_id="r",
            session_id="s",
            attempt=1000,
            call=2,
            model="m",
            usage_max=Usage(input_tokens=5, output_tokens=9),
            reserved_micros=1_500,
            price_digest="d",
        ),
        "calls m again, after which the run may have cost up to $0.001500",
    ),
    (
        JournalStep(
            user_id="ada",
            request_id="r",
            session_id="s",
            attempt=1000,
            step=4,
            kind="intent",
            name="pay",
            call_id="c1",
            effect="idempotent",
        ),
        "is about to call pay (idempotent, c1) (journal, step 4)",
    ),
    (
        RunMigration(user_id="ada", request_id="r", to_version="2", dry_run=True),
        "asks whether it can go on with version 2",
    ),
    (
        RunMigrationAnswered(
            user_id="ada",
            request_id="r",
            from_version="1",
            to_version="2",
            moved=True,
            source=PLACE,
        ),
        "goes on with version 2, no longer 1",
    ),
    (
        RunMigrationAnswered(
            user_id="ada",
            request_id="r",
            to_version="2",
            refused=Reason(code="run_ended", message="it has ended"),
            source=PLACE,
        ),
        "stays as it is, run_ended: it has ended",
    ),
    (
        JournalStep(
            user_id="ada",
            request_id="r",
            session_id="s",
            attempt=1000,
            step=5,
            kind="moved",
            began=RunBegan(template="own", template_version="2", moved_from="1"),
        ),
        "goes on with version 2, no longer 1 (journal, step 5)",
    ),
)


@pytest.mark.parametrize(("event", "told"), CASES)
def test_an_event_is_told_in_a_line(event: Event, told: str) -> None:
    assert what(event) == told


def test_no_kind_of_event_is_left_out() -> None:
    assert {type(event) for event, _ in CASES} == set(EVENT_TYPES)


def test_a_line_says_when_where_who_and_what() -> None:
    line = entry_line(Delivery(CASES[3][0], PLACE, 1_769_851_800_007), "ns")
    assert line.split() == [
        "2026-01-31",
        "09:30:00.007",
        "results-1@7",
        "ada",
        "r",
        "0",
        "s",
        "completed,",
        "3",
        "tokens",
        "in,",
        "2",
        "out,",
        "$0.000014:",
        "Paris.",
    ]


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (
            making.cost(**IDS, model="new", price_digest="unpriced", usage=Usage(input_tokens=3)),
            "used new, which has no price (3 tokens in, 0 out)",
        ),
        (
            making.attempt(**IDS, attempt=1000, model="new", price_digest="unpriced"),
            "begins attempt 1000 on new, which has no price",
        ),
    ],
)
def test_a_model_without_a_price_is_told_to_have_none(event: Event, told: str) -> None:
    assert what(event) == told


def test_a_line_shortens_ids_and_says_what_an_event_has_not() -> None:
    event = making.token(request_id="0123456789abcdef", session_id="s-1", attempt=2000)
    assert entry_line(Delivery(event, PLACE, 0), "ns").split()[3:7] == [
        *("ada", "0123456789a…", "2000", "s-1"),
    ]
    drain = ControlCommand(user_id="ada", command="drain", worker="w")
    assert entry_line(Delivery(drain, PLACE, 0), "ns").split()[3:7] == ["ada", "-", "-", "-"]


def test_a_request_that_was_rerouted_or_put_back_says_so() -> None:
    home = PLACE.model_copy(update={"partition": home_partition(REQUEST.partition_key, 4)})
    away = home.model_copy(update={"partition": (home.partition + 1) % 4})

    def line(at: Address, came_as: Address | None = None) -> str:
        return entry_line(Delivery(REQUEST, at, 0, came_as), "ns", partitions=4)

    assert line(home).endswith("asks chat_agent: Hi there")
    assert line(away).endswith(f"(rerouted to partition {home.partition})")
    assert line(home, away).endswith(f"(rerouted: it came as results-{away.partition}@7)")
    assert line(home, home).endswith(f"(put back: it came as results-{home.partition}@7)")


@pytest.mark.parametrize(
    ("tenant", "user", "shown"),
    [
        ("default", "ada", "ada"),
        ("acme", "ada", "acme/ada"),
        ("default", "acme/ada", "default/acme/ada"),
    ],
)
def test_two_users_are_never_shown_alike(tenant: str, user: str, shown: str) -> None:
    event = ControlCommand(tenant=tenant, user_id=user, command="cancel", request_id="r")
    assert entry_line(Delivery(event, PLACE, 0), "ns").split()[3] == shown


def test_json_has_the_address_the_time_and_the_event() -> None:
    line = json.loads(entry_json(Delivery(REQUEST, PLACE, 1_769_851_800_007)))
    assert (line["topic"], line["partition"], line["offset"]) == ("ns.results", 1, 7)
    assert line["time"] == "2026-01-31T09:30:00.007Z"
    assert isinstance(REQUEST, BaseModel)
    assert AgentRequest.model_validate(line["event"]) == REQUEST


def test_an_unreadable_record_is_told_with_its_reason() -> None:
    entry = Unreadable(PLACE, 1_769_851_800_007, None, NotJson("the value is not JSON"))
    assert "unreadable: the value is not JSON" in entry_line(entry, "ns")
    assert json.loads(entry_json(entry))["unreadable"]["code"] == "not_json"


def test_control_characters_never_reach_a_line() -> None:
    assert one_line("a\x1b[31mb\nc\u202e") == "a [31mb c "


def test_long_texts_are_cut() -> None:
    assert len(one_line("x" * 1000)) == 160


@pytest.mark.parametrize(
    ("micros", "told"), [(0, "$0.000000"), (14, "$0.000014"), (1_234_000_001, "$1,234.000001")]
)
def test_money_is_told_in_dollars(micros: int, told: str) -> None:
    assert money(micros) == told


def test_a_dead_letter_of_an_earlier_version_is_printed_without_its_secrets() -> None:
    old = making.dead_letter(
        reason=Reason(code="not_json", message="why"),
        source=PLACE,
        headers=(("ce_id", "MQ=="), ("authorization", "QmVhcmVyIHMzY3JldA==")),
    )
    event = json.loads(entry_json(Delivery(old, PLACE, 5)))["event"]
    assert event["headers"] == [["ce_id", "MQ=="]]
    assert (event["headers_dropped"], event["headers_dropped_count"]) == (["authorization"], 1)
