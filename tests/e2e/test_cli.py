"""The commands, each a real process, against what `millstream up` runs."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from millstream.streams.settings import Settings
from tests.e2e.programs import (
    Up,
    as_client,
    ended,
    interrupt,
    line_with,
    millstream,
    run,
)
from tests.support import eventually


async def test_submit_shows_the_answer_and_tells_the_rest_on_standard_error(up: Up) -> None:
    told = await run(up.environment, "submit", "say: hello world", "--user", "ada")
    assert (told.code, told.out) == (0, "hello world\n"), told.err
    assert "completed in" in told.err
    assert "$0.000000" in told.err


async def test_up_that_serves_is_no_longer_told_of_as_starting(up: Up) -> None:
    assert not (up.log.parent / "starting.json").exists()
    assert (await run(up.environment, "sessions", "stats")).code == 0


async def test_submit_reads_what_to_ask_and_names_its_request(up: Up, tmp_path: Path) -> None:
    ask = ("submit", "-", "--user", "ada", "--metadata", "order=7", "--json")
    told = await run(up.environment, *ask, typed="say: 10\u00a0000 €\n")
    assert told.code == 0, told.err
    result = json.loads(told.out.splitlines()[-1])["event"]
    assert (result["output"], result["metadata"]) == ("10\u00a0000 €", {"order": "7"})
    assert told.err.startswith(f"request {result['request_id']} (")
    (tmp_path / "question.txt").write_text("say: from a file\n", encoding="utf-8")
    file = ("--input-file", str(tmp_path / "question.txt"))
    told = await run(up.environment, "submit", *file, "--user", "ada")
    assert (told.code, told.out) == (0, "from a file\n"), told.err


async def test_submit_with_steps_shows_the_run_s_calls_in_their_order(up: Up) -> None:
    asked = ('call: calculator {"expression": "12*12"}; say: it is 144', "--user", "ada")
    told = await run(up.environment, "submit", *asked, "--template", "react_agent", "--steps")
    assert (told.code, told.out) == (0, "it is 144\n"), told.err
    kinds = re.findall("^(asks|scripted has answered|→|←|completed)", told.err, re.MULTILINE)
    call = ["asks", "scripted has answered"]
    assert kinds == [*call, "→", "←", *call, "completed"], told.err
    assert '→ calculator(expression="12*12")\n← 144 in ' in told.err


async def test_submit_takes_images_and_files_and_history_names_them(up: Up, tmp_path: Path) -> None:
    # As docs/how-to/input.md has it.
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(12_000))
    (tmp_path / "notes.txt").write_text("black", encoding="utf-8")
    asked = ("say: a cat", "--user", "ada", "--request-id", "cat")
    given = ("--image", "cat.png", "--image", "https://a.org/b.png", "--file", "notes.txt")
    told = await run(up.environment, "submit", *asked, *given, folder=tmp_path)
    assert (told.code, told.out) == (0, "a catnotes.txt:\nblack\n"), told.err
    lines = await run(up.environment, "history", "--user", "ada", "--request", "cat")
    assert "say: a cat [image/png, 12 kB] [image at a.org/b.png] [text/plain, 5 B]" in lines.out
    assert "iVBOR" not in lines.out
    blind = ("--model", "local", "--request-id", "blind", "--image", "cat.png")
    refused = await run(up.environment, "submit", "", "--user", "ada", *blind, folder=tmp_path)
    assert refused.code == 4, refused.err
    assert "content_unsupported: the model 'local' takes no images" in " ".join(refused.err.split())


async def test_submit_as_json_prints_the_events_up_to_the_result(up: Up) -> None:
    told = await run(
        up.environment, "submit", "say: hello world", "--user", "ada", "--session", "s", "--json"
    )
    assert told.code == 0, told.err
    *before, last = [json.loads(line)["event"] for line in told.out.splitlines()]
    assert (last["type"], last["status"], last["output"]) == ("result", "completed", "hello world")
    assert {event["type"] for event in before} <= {"token"}
    assert {event["session_id"] for event in (*before, last)} == {"s"}


@pytest.mark.parametrize(
    ("text", "user", "options", "code", "words"),
    [
        ("Hi", "mallory", (), 3, "forbidden"),
        ("fail: out of order", "ada", (), 4, "out of order"),
        ("slow: 8.0; say: late", "ada", ("--timeout", "4"), 5, "a worker has taken it up"),
        ("slow: 8.0; say: late", "ada", ("--timeout", "4"), 5, " is running: "),
        ("say: late", "ada", ("--timeout", "0.1"), 5, "has not taken request"),
        ("Hi", "ada", ("--deadline", "0.001"), 4, "expired"),
        ("Hi", "ada", ("--session", "moved", "--expected-turn", "3"), 3, "newest turn is 0, not 3"),
    ],
)
async def test_submit_s_exit_code_says_how_a_request_ended(
    up: Up, *, text: str, user: str, options: tuple[str, ...], code: int, words: str
) -> None:
    told = await run(up.environment, "submit", text, "--user", user, *options)
    assert told.code == code, told.err
    assert words in told.err


async def test_a_request_id_is_answered_once_however_often_it_is_submitted(up: Up) -> None:
    ask = ("submit", "say: once", "--user", "ada", "--request-id", "mine")
    first, second = await run(up.environment, *ask), await run(up.environment, *ask)
    assert (first.code, first.out) == (second.code, second.out) == (0, "once\n")
    assert "has ended before" in second.err
    shown = await run(up.environment, "history", "--request", "mine", "--topic", "requests")
    assert len(shown.out.splitlines()) == 1
    other = await run(up.environment, "submit", "say: other", *ask[2:])
    assert (other.code, other.out) == (3, "")
    assert "was used before by this user for something else" in other.err


async def test_submit_that_is_interrupted_says_how_to_end_what_goes_on(up: Up) -> None:
    # Text for people would come to a pipe once it is whole.
    arguments = ("submit", "pace: 0.05; endless", "--user", "ada", "--request-id", "left", "--json")
    async with millstream(up.environment, *arguments) as submitted:
        assert submitted.stdout is not None
        await submitted.stdout.read(1)
        left = await interrupt(submitted)
    assert left.code == 130
    assert "request left goes on" in left.err
    command = "cancel --user ada --request left"
    assert f"`millstream {command}`" in left.err
    assert (await run(up.environment, *command.split())).code == 0


@pytest.mark.parametrize(
    "arguments",
    [("history", "--partition", "99"), ("tail", "results", "--from", "99:5")],
)
async def test_a_partition_that_there_is_not_is_wrong_usage(
    up: Up, arguments: tuple[str, ...]
) -> None:
    told = await run(up.environment, *arguments)
    assert told.code == 2
    assert "there are 4 partitions, 0 to 3" in told.err


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MILLSTREAM_REDIS_URL", "foo"),
        ("MILLSTREAM_DEFAULT_MODEL", "nonsense"),
        ("MILLSTREAM_METRICS_HOST", "nope.invalid"),
    ],
)
async def test_a_worker_names_the_variable_that_is_wrong_and_exits_6(
    up: Up, variable: str, value: str
) -> None:
    told = await run(up.environment | {variable: value}, "worker")
    assert told.code == 6
    assert variable in told.err


async def test_tail_follows_a_topic_until_ctrl_c(up: Up) -> None:
    arguments = ("tail", "results", "--from", "beginning", "--user", "tailed", "--json")
    async with millstream(up.environment, *arguments) as tail:
        assert tail.stdout is not None
        await run(up.environment, "submit", "Hi", "--user", "tailed")
        line = json.loads(await line_with(tail.stdout, "tailed"))
        assert line["event"]["status"] == "rejected"
        assert (await interrupt(tail)).code == 130


async def test_history_tells_what_became_of_a_request(up: Up) -> None:
    await run(up.environment, "submit", "say: told", "--user", "ada", "--request-id", "told")
    shown = await run(up.environment, "history", "--user", "ada", "--request", "told")
    assert shown.code == 0
    told = re.sub(
        r"^\S+ \S+ +(\S+)-\d+@\d+ +ada +told +\S+ +told +", r"\1 ", shown.out, flags=re.MULTILINE
    )
    for words in (
        "requests asks chat_agent: say: told",
        "decisions admitted by",
        "tokens writes (attempt ",
        "costs spent $",
        "results completed, ",
    ):
        assert words in told
    as_json = await run(up.environment, "history", "--request", "told", "--json", "--limit", "2")
    assert len([json.loads(line) for line in as_json.out.splitlines()]) == 2


async def test_cancel_ends_a_run_and_tells_how_it_ended(up: Up) -> None:
    who = ("--user", "ada", "--request", "endless")
    async with millstream(
        up.environment,
        "submit",
        "pace: 0.05; endless",
        *who[:2],
        "--request-id",
        "endless",
        "--json",
    ) as submitted:
        assert submitted.stdout is not None
        await submitted.stdout.read(1)
        told = await run(up.environment, "cancel", *who)
        assert (told.code, told.err) == (0, "request endless: cancelled\n")
        assert (await ended(submitted)).code == 4
    again = await run(up.environment, "cancel", *who, "--json")
    said = json.loads(again.out)
    assert (again.code, said["outcome"], said["status"]) == (8, "had_ended", "cancelled")
    wrong = await run(up.environment, "cancel", "--user", "ada")
    assert wrong.code == 2


async def test_a_paused_request_waits_until_it_is_resumed(up: Up) -> None:
    who = ("--user", "ada", "--request", "paused")
    told = await run(up.environment, "pause", *who)
    assert (told.code, told.err.partition(" of this")[0]) == (8, "request paused: no such request")
    async with millstream(
        up.environment, "submit", "say: at last", "--user", "ada", "--request-id", "paused"
    ) as submitted:

        async def is_decided() -> bool:
            shown = await run(up.environment, "history", "--request", "paused")
            return "admitted" in shown.out

        await eventually(is_decided, timeout_s=60)
        assert submitted.returncode is None
        resumed = await run(up.environment, "resume", *who)
        assert (resumed.code, resumed.err) == (0, "request paused: goes on\n")
        done = await ended(submitted)
    assert (done.code, done.out.strip()) == (0, "at last")
    late = await run(up.environment, "pause", *who)
    assert (late.code, late.err.startswith("request paused: had ended")) == (8, True)
    again = await run(up.environment, "resume", *who)
    assert (again.code, again.err) == (8, "request paused: was not paused\n")


async def test_a_worker_that_is_drained_hands_over_and_exits_0(up: Up) -> None:
    async with millstream(up.environment, "worker", "--role", "lanes") as worker:
        assert worker.stdout is not None
        name = json.loads(await line_with(worker.stdout, "metrics_url"))["worker"]
        told = await eventually(lambda: drained(up.environment, name), timeout_s=60)
        assert name in told
        assert (await ended(worker)).code == 0
    after = await run(up.environment, "submit", "say: still here", "--user", "ada")
    assert after.code == 0
    unknown = await run(up.environment, "drain", "nobody", "--json")
    assert (unknown.code, json.loads(unknown.out)["outcome"]) == (8, "unknown")
    assert "nobody" in unknown.err


async def drained(environment: dict[str, str], worker: str) -> str | None:
    """Drain a worker once it owns a partition."""
    told = await run(environment, "drain", worker)
    return told.err if told.code == 0 else None


async def test_history_exits_0_with_a_note_where_nothing_matches(up: Up) -> None:
    shown = await run(up.environment, "history", "--user", "nobody", "--since", "1h")
    assert (shown.code, shown.out, shown.err) == (0, "", "nothing matches\n")


async def test_topics_agree_with_the_catalogue_and_drift_exits_7(up: Up) -> None:
    agreed = await run(up.environment, "topics", "--check", "--json")
    assert agreed.code == 0, agreed.err
    assert all(json.loads(line)["drift"] == [] for line in agreed.out.splitlines())
    drifted = await run(up.environment | {"MILLSTREAM_PARTITIONS": "5"}, "topics", "--check")
    assert drifted.code == 7
    assert "MILLSTREAM_PARTITIONS=4" in drifted.err


_TURNS = {"turns_max": 20, "turns_keep": None}
_SERVICES = ("kafka", "topics", "clock", "redis", "workers", "templates")


async def test_submit_says_that_a_run_is_paused_when_its_time_is_over(up: Up) -> None:
    whose = ("--user", "ada", "--session", "halted")
    assert (await run(up.environment, "pause", *whose)).code == 0
    told = await run(up.environment, "submit", "say: x", *whose, "--timeout", "5")
    assert (await run(up.environment, "resume", *whose)).code == 0
    assert told.code == 5, told.err
    words = " ".join(told.err.split())
    assert " is paused: its session is paused" in words
    assert "goes on" not in words


async def test_doctor_finds_what_runs_here(up: Up) -> None:
    told = await run(up.environment, "doctor", "--json")
    levels: dict[str, list[str]] = defaultdict(list)
    for one in map(json.loads, told.out.splitlines()):
        levels[one["name"]].append(one["level"])
    # Where users have rights, what this one may not do is a note.
    rights, *others = levels["rights"]
    assert (rights, set(others) - {"note"}) == ("ok", set())
    assert [levels[name] for name in _SERVICES] == [["ok"]] * len(_SERVICES)
    assert levels["policies"] == ["ok"]
    (started,) = (line for line in up.log.read_text().splitlines() if "worker started" in line)
    assert re.search(r"policy=[0-9a-f]{16} ", started)


async def test_doctor_tells_of_a_policy_that_no_worker_has(up: Up, tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text("defaults: {roles: []}\n", encoding="utf-8")
    named = up.environment | {"MILLSTREAM_POLICY_FILE": str(file)}
    told = await run(named, "doctor", "--json")
    (found,) = (one for one in map(json.loads, told.out.splitlines()) if one["name"] == "policies")
    assert found["level"] == "note"
    assert f"no worker has {file} as it is now" in found["told"]


@pytest.mark.promise("P1")
async def test_a_template_is_there_at_run_time_until_it_is_retired(up: Up, tmp_path: Path) -> None:
    file = tmp_path / "brief.yaml"
    file.write_text('name: chat_agent\nversion: "2"\nsystem_prompt: Be brief.\n', encoding="utf-8")
    applied = await run(up.environment, "templates", "apply", str(file))
    assert (applied.code, applied.out) == (0, "chat_agent 2: applied\n"), applied.err
    assert await _version_of_a_run(up) == "2"
    shown = await run(up.environment, "templates", "show", "chat_agent")
    assert "# output_tokens_max: by the model, 256\n" in shown.out, shown.err
    assert yaml.safe_load(shown.out)["memory"] == {"strategy": "last_turns"} | _TURNS
    retired = await run(up.environment, "templates", "retire", "chat_agent")
    assert (retired.code, retired.out) == (0, "chat_agent 2: retired\n"), retired.err
    assert await _version_of_a_run(up) == "1"  # the app's own


async def test_templates_of_a_namespace_without_topics_say_what_to_do(
    up: Up, settings: Settings
) -> None:
    elsewhere = up.environment | as_client(settings)
    told = await run(elsewhere, "templates", "list")
    assert told.code == 6, told.err
    assert "run `millstream topics --create`" in told.err


async def test_a_misspelt_template_is_told_soon_where_nobody_else_can_have_it(up: Up) -> None:
    told = await run(up.environment, "submit", "Hi", "--user", "ada", "--template", "chat_agnt")
    assert told.code == 3, told.err
    known = "known: chat_agent, react_agent, structured_agent; waited 2 s"
    assert f"no template is called 'chat_agnt' here; {known}" in told.err
    assert "note: no worker that runs has a template 'chat_agnt'" in told.err


async def _version_of_a_run(up: Up) -> str:
    told = await run(up.environment, "submit", "say: hi", "--user", "ada", "--json")
    assert told.code == 0, told.err
    result = json.loads(told.out.splitlines()[-1])["event"]
    return str(result["template_version"])


@pytest.mark.slow
@pytest.mark.promise("P1")
async def test_a_worker_that_is_killed_is_started_again_and_serves(up: Up) -> None:
    before = _worker_pid(up.log)
    os.kill(before, signal.SIGKILL)
    await eventually(lambda: _worker_pid(up.log) not in {0, before}, timeout_s=60)
    told = await run(up.environment, "submit", "say: back", "--user", "ada")
    assert (told.code, told.out) == (0, "back\n"), told.err


async def test_a_worker_by_itself_says_in_json_where_its_metrics_are(up: Up) -> None:
    async with millstream(up.environment, "worker", "--role", "views") as worker:
        assert worker.stdout is not None
        line = json.loads(await line_with(worker.stdout, "metrics_url"))
        assert line["roles"] == ["views"]
        os.kill(worker.pid, signal.SIGTERM)
        assert (await ended(worker)).code == 0


def _worker_pid(log: Path) -> int:
    """Give the id of the worker that said last that it is ready, 0 while none has."""
    told = re.findall(r"^ready: \S+-(\d+) serves", log.read_text(), flags=re.MULTILINE)
    return int(told[-1]) if told else 0


async def test_a_session_is_created_talked_in_read_and_deleted(up: Up) -> None:
    ada = ("--user", "ada")
    told = await run(up.environment, "sessions", "create", *ada, "--metadata", "order=7")
    assert told.code == 0, told.err
    name = told.out.strip()
    asked = await run(up.environment, "submit", "say: hello", *ada, "--session", name)
    assert asked.code == 0, asked.err
    told = await run(up.environment, "sessions", "messages", name, *ada)
    assert (told.code, told.out) == (0, "user\n  say: hello\nassistant\n  hello\n"), told.err
    without_redis = {**up.environment, "MILLSTREAM_REDIS_URL": "redis://127.0.0.1:1"}
    told = await run(without_redis, "sessions", "messages", name, *ada)
    assert (told.code, told.out) == (0, "user\n  say: hello\nassistant\n  hello\n"), told.err
    assert "Redis does not answer" in told.err
    told = await run(without_redis, "sessions", "messages", "nothing", *ada)
    assert (told.code, told.out) == (8, ""), told.err
    told = await run(up.environment, "sessions", "delete", name, *ada, "--json")
    assert (told.code, json.loads(told.out)["state"]) == (0, "deleted"), told.err
    told = await run(up.environment, "sessions", "show", name, *ada)
    assert (told.code, told.out) == (8, ""), told.err
