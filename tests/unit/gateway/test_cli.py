"""The command line: wrong usage, and errors told in a line with their exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from millstream.gateway.cli import app, exit_code_of, words_of
from millstream.gateway.client_settings import local_settings, noted_start
from millstream.gateway.installation import HOME
from millstream.gateway.processes.children import ChildEnded
from millstream.schemas.errors import Misconfigured, NoSuchTopic
from millstream.version import __version__

runner = CliRunner()


@pytest.fixture(autouse=True)
def _nothing_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_DATA_DIR", str(tmp_path))


def test_help_names_every_command_and_the_exit_codes() -> None:
    shown = runner.invoke(app, ["--help"])
    assert shown.exit_code == 0
    commands = ("up", "worker", "submit", "tail", "history", "topics", "dead-letters", "doctor")
    names = (*commands, "demo", "Exit codes")
    assert all(name in shown.stdout for name in names)


def test_the_version_is_told_and_where_it_stands() -> None:
    shown = runner.invoke(app, ["--version"])
    assert (shown.exit_code, shown.stdout) == (0, f"millstream {__version__} ({HOME})\n")


def test_who_finds_a_service_away_is_told_what_looks_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_KAFKA", "127.0.0.1:1")
    shown = runner.invoke(app, ["topics"])
    assert (shown.exit_code, shown.stdout) == (6, "")
    assert shown.stderr.startswith("error: Kafka does not answer at 127.0.0.1:1: ")
    assert shown.stderr.endswith("; `millstream doctor` looks at Kafka, Redis and the settings\n")


@pytest.mark.parametrize("columns", [40, 80])
def test_help_is_as_wide_as_the_terminal_and_cuts_nothing(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in (["--help"], ["pause", "--help"], ["templates", "--help"]):
        shown = runner.invoke(app, arguments).stdout
        assert "..." not in shown.replace("[ARGS]...", "")
        assert max(map(len, shown.splitlines())) < columns
    whole = " ".join(runner.invoke(app, ["pause", "--help"]).stdout.split())
    # The docstring breaks its lines elsewhere.
    assert "a model or a tool, and goes on there when it is resumed; a call under way" in whole


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", "Hi"],
        ["submit", " ", "--user", "ada"],
        ["submit", "Hi", "--user", "a\tb"],
        ["submit", "Hi", "--user", "ada", "--timeout", "0"],
        ["submit", "Hi", "--user", "ada", "--deadline", "inf"],
        ["submit", "Hi", "--user", "ada", "--deadline", "nan"],
        ["submit", "Hi", "--user", "ada", "--session", "s", "--expected-turn", "-1"],
        ["submit", "\udcff", "--user", "ada"],
        ["history", "--user", "\udcff"],
        ["history", "--user", "a/b"],
        ["tail", "results", "--user", "a/b"],
        ["up", "--brokers", "2"],
        ["up", "--policy", "/nowhere.yaml"],
        ["worker", "--role", "lane"],
        ["history", "--since", "yesterday", "--topic", "results"],
        ["tail", "results", "--from", "then"],
        ["submit", "--user", "ada"],
        ["submit", "-", "--user", "ada"],
        ["submit", "Hi", "--input-file", "x", "--user", "ada"],
        ["submit", "Hi", "--user", "ada", "--metadata", "x"],
        ["history", "--since", "1h", "--until", "2h"],
        ["history", "--since", "2026-01-31", "--until", "2026-01-31"],
        ["history", "--offset", "5", "--offset-until", "5"],
        ["dead-letters", "list", "--code", "nonsense"],
        ["dead-letters", "redrive", "--all", "--code", "nonsense"],
        ["nothing"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_KAFKA", "127.0.0.1:1")
    assert runner.invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sessions", "list", "--user", "ada", "--state", "gone"], "'--state': 'gone' is not one"),
        (["submit", "Hi", "--user", "a\tb"], "user_id: must not hold control characters"),
        (["cancel", "--user", "a\tb", "--request", "r"], "user_id: must not hold control"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLSTREAM_KAFKA", "127.0.0.1:1")
    shown = runner.invoke(app, arguments)
    assert shown.exit_code == 2
    assert words in " ".join(shown.stderr.replace("│", "").split())


@pytest.mark.parametrize("command", [["worker", "--role", "lane"], ["up", "--roles", "lane"]])
def test_a_role_that_there_is_not_is_told_before_a_setting_that_is_wrong(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLSTREAM_PARTITIONS", "none")
    shown = runner.invoke(app, command)
    assert shown.exit_code == 2
    assert "there is no role 'lane'" in shown.stderr


def test_a_topic_that_is_misspelt_is_told_the_right_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_KAFKA", "127.0.0.1:1")
    shown = runner.invoke(app, ["tail", "reslts"])
    assert shown.exit_code == 2
    assert "did you mean results?" in " ".join(shown.stderr.replace("│", "").split())


@pytest.mark.parametrize("command", [["submit", "Hi", "--user", "ada"], ["history"], ["topics"]])
def test_where_nothing_runs_it_exits_6_and_says_what_to_start(command: list[str]) -> None:
    shown = runner.invoke(app, command)
    assert shown.exit_code == 6
    assert shown.stderr.startswith("error: nothing runs here: start `millstream up`")
    assert shown.stdout == ""


@pytest.mark.parametrize("command", ["up", "worker"])
def test_a_data_folder_that_cannot_be_written_is_told_in_a_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MILLSTREAM_DATA_DIR", str(tmp_path / "file" / "data"))
    monkeypatch.setenv("MILLSTREAM_KAFKA", "127.0.0.1:1")
    shown = runner.invoke(app, [command])
    assert shown.exit_code == 6
    assert shown.stderr == (
        f"error: the data folder {tmp_path}/file/data cannot be written to (Not a directory): "
        "name another one in MILLSTREAM_DATA_DIR\n"
    )


def test_a_kafka_that_does_not_answer_exits_6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_KAFKA", "127.0.0.1:1")
    shown = runner.invoke(app, ["topics"])
    assert shown.exit_code == 6
    assert "127.0.0.1:1" in shown.stderr


def test_a_wrong_setting_exits_6_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_PARTITIONS", "none")
    shown = runner.invoke(app, ["history"])
    assert shown.exit_code == 6
    assert "MILLSTREAM_PARTITIONS" in shown.stderr


def test_doctor_names_a_url_that_is_none_and_shows_no_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MILLSTREAM_KAFKA", "127.0.0.1:1")
    monkeypatch.setenv("MILLSTREAM_REDIS_URL", "http://:secret@127.0.0.1")
    shown = runner.invoke(app, ["doctor"])
    assert shown.exit_code == 1
    assert "✗ redis: MILLSTREAM_REDIS_URL is no Redis URL" in shown.stdout
    assert "secret" not in shown.output


def test_an_error_that_nobody_foresaw_is_one_line_and_a_traceback_on_demand(
    tmp_path: Path,
) -> None:
    (tmp_path / "endpoints.json").mkdir()
    shown = runner.invoke(app, ["history"])
    assert shown.exit_code == 1
    assert shown.stderr.startswith("error: IsADirectoryError")
    assert isinstance(runner.invoke(app, ["--debug", "history"]).exception, IsADirectoryError)


def test_doctor_exits_1_and_says_what_to_do_about_what_is_wrong() -> None:
    shown = runner.invoke(app, ["doctor", "--json"])
    assert shown.exit_code == 1
    findings = {one["name"]: one for one in map(json.loads, shown.stdout.splitlines())}
    assert findings["python"]["level"] == "ok"
    assert findings["kafka"]["level"] == "wrong"
    assert findings["kafka"]["remedy"]


def test_doctor_reads_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("users: {ada: {roles: [nobody]}}")
    monkeypatch.setenv("MILLSTREAM_POLICY_FILE", str(policy))
    shown = runner.invoke(app, ["doctor"])
    assert "✗ policy:" in shown.stdout
    assert "nobody" in shown.stdout


def test_doctor_tells_globs_of_the_policy_that_match_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "roles: {a: {templates: [chat_agent, 'react*', 'raect*'], models: ['opneai:*', 'local']}}"
    )
    monkeypatch.setenv("MILLSTREAM_POLICY_FILE", str(policy))
    shown = runner.invoke(app, ["doctor", "--json"])
    findings = map(json.loads, shown.stdout.splitlines())
    idle = [one["told"] for one in findings if one["name"] == "policy" and one["level"] == "note"]
    assert idle == [
        "roles.a.templates: 'raect*' matches nothing",
        "roles.a.models: 'opneai:*' matches nothing",
    ]


def test_doctor_tells_wrong_settings_and_goes_on_with_what_needs_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MILLSTREAM_PARTITIONS", "none")
    monkeypatch.setenv("MILLSTREAM_LOG_LEVEL", "loud")
    shown = runner.invoke(app, ["doctor", "--json"])
    assert shown.exit_code == 1
    findings = {one["name"]: one for one in map(json.loads, shown.stdout.splitlines())}
    assert findings["settings"]["level"] == "wrong"
    for name in ("MILLSTREAM_PARTITIONS", "MILLSTREAM_LOG_LEVEL"):
        assert name in findings["settings"]["told"]
    assert findings["python"]["level"] == findings["local model"]["level"] == "ok"
    assert findings.keys().isdisjoint({"kafka", "redis", "policy", "disk"})


@pytest.mark.parametrize(
    ("variable", "value", "finding", "words"),
    [
        ("MILLSTREAM_CHAIN_CUTS", '["executer"]', "settings", "there is no layer 'executer'"),
        ("MILLSTREAM_DEFAULT_MODEL", "gpt-5", "default model", "no model is called 'gpt-5'"),
        ("MILLSTREAM_DEFAULT_MODEL", "scripted", "default model", "MILLSTREAM_SCRIPTED_MODEL=on"),
    ],
)
def test_doctor_tells_what_would_keep_a_worker_from_starting(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, finding: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    shown = runner.invoke(app, ["doctor", "--json"])
    findings = {one["name"]: one for one in map(json.loads, shown.stdout.splitlines())}
    assert findings[finding]["level"] == "wrong"
    assert words in findings[finding]["told"]


def test_up_starts_nothing_where_the_chain_cannot_be_cut_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MILLSTREAM_CHAIN_CUTS", '["executer"]')
    shown = runner.invoke(app, ["up"])
    assert (shown.exit_code, shown.stdout) == (6, "")
    assert shown.stderr.startswith("error: chain_cuts: there is no layer 'executer'")


def test_the_script_of_the_checkout_runs_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "streams").mkdir()
    (tmp_path / "streams" / "__init__.py").write_text("raise SystemExit(99)")
    told = subprocess.run(
        [HOME / "millstream", "tail", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (told.returncode, told.stderr) == (0, "")
    assert "Follow a topic" in told.stdout


def test_the_module_runs_as_a_program() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "millstream.gateway", "nothing"],
        cwd=HOME,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == 2


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "millstream.gateway", "doctor"],
        cwd=HOME,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read()
    # Read to its end it would exit 1, for nothing runs here.
    assert (process.returncode, told) == (0, b"")


@pytest.mark.parametrize(("child", "code"), [(6, 6), (1, 1), (-9, 1), (None, 1)])
def test_a_program_of_ours_that_found_nobody_there_gives_its_code_on(
    child: int | None, code: int
) -> None:
    assert exit_code_of(ChildEnded("it ended", child)) == code


def test_a_topic_that_is_missing_while_up_starts_is_waited_for_and_not_made() -> None:
    error = NoSuchTopic("no such topic at 127.0.0.1:1: x; start a worker")
    with noted_start(local_settings()):
        assert words_of(error).startswith("Millstream is still being started here: try again")
        assert words_of(Misconfigured("another")) == "another"
    assert words_of(error) == str(error)


def test_help_that_nobody_reads_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        told = subprocess.run(
            [sys.executable, "-m", "millstream.gateway", "--help"],
            stdout=nobody,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert (told.returncode, told.stderr) == (0, b"")


def test_errors_that_nobody_reads_are_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        told = subprocess.run(
            [sys.executable, "-m", "millstream.gateway", "topics"],
            cwd=HOME,
            stdout=nobody,
            stderr=nobody,
            check=False,
            timeout=60,
        )
    # Nothing runs here, which it could not tell.
    assert told.returncode == 6


def test_a_new_app_is_told_as_json_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = runner.invoke(app, ["new", "shop", "--json"])
    assert (made.exit_code, made.stderr) == (0, "")
    told = json.loads(made.stdout)
    assert (told["app"], told["folder"]) == ("shop", "shop")
    files = {tmp_path / one["path"] for one in told["files"]}
    assert files == set((tmp_path / "shop").iterdir())
    assert all(one["about"] for one in told["files"])
    again = runner.invoke(app, ["new", "shop", "--json"])
    assert (again.exit_code, again.stdout) == (2, "")
    assert "there is a shop already" in again.stderr
