"""Commands find the services that run here, unless they are told of others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.gateway.checks.configured import check_policy
from millstream.gateway.client_settings import (
    is_up_starting,
    leave_note_of_up,
    local_settings,
    noted_start,
    policy_of_up,
    running_endpoints,
    settings_for_client,
)
from millstream.gateway.installation import data_folder
from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.live import live_security
from millstream.streams.settings import child_environment


@pytest.fixture
def launcher_pid() -> Iterator[int]:
    """Id of a process that has the launcher's command line."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()", "-m", "millstream.infra", "up"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder that the environment names, empty."""
    monkeypatch.setenv("MILLSTREAM_DATA_DIR", str(tmp_path))
    return tmp_path


def write_note(data: Path, pid: int) -> None:
    note = {"kafka": "127.0.0.1:1", "redis_url": "redis://127.0.0.1:2/0", "launcher_pid": pid}
    (data / "endpoints.json").write_text(json.dumps(note))


@pytest.mark.usefixtures("data")
def test_where_nothing_runs_the_error_says_what_to_start() -> None:
    with pytest.raises(Misconfigured, match="start `millstream up`, or `millstream dev APP`, or"):
        settings_for_client()


def test_what_up_started_is_found(data: Path, launcher_pid: int) -> None:
    write_note(data, launcher_pid)
    settings = settings_for_client()
    assert (settings.kafka, settings.redis_url) == ("127.0.0.1:1", "redis://127.0.0.1:2/0")


def test_while_up_starts_whoever_is_early_is_told_to_wait(
    data: Path, launcher_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # redpanda-data/redpanda#411, confluentinc/librdkafka#4904: whoever comes early hears of a
    # topic that is missing, and looks for what is wrong.
    with noted_start(local_settings()) as started:
        with pytest.raises(
            Misconfigured, match="still being started here: try again once that is done"
        ):
            settings_for_client()
        write_note(data, launcher_pid)  # Kafka answers, and its topics are not there yet
        assert is_up_starting(settings_for_client())
        monkeypatch.setenv("MILLSTREAM_KAFKA", "127.0.0.1:9")
        assert not is_up_starting(settings_for_client())
        monkeypatch.delenv("MILLSTREAM_KAFKA")
        started()
        assert not is_up_starting(settings_for_client())


@pytest.mark.parametrize(
    "note", ["", "{}", '{"pid": 1, "began": "x"}', '{"pid": 4194305, "began": "1"}', "[]"]
)
def test_the_note_of_a_start_that_was_killed_is_none(data: Path, note: str) -> None:
    (data / "starting.json").write_text(note)
    assert not is_up_starting(local_settings())
    with noted_start(local_settings()):
        assert is_up_starting(local_settings())
    assert not (data / "starting.json").exists()


def note_policy(policy: Path | None, pid: int) -> None:
    leave_note_of_up(local_settings().model_copy(update={"policy_file": policy}), pid)


async def test_doctor_tells_the_policy_that_up_runs_with(
    data: Path, launcher_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = data / "policy.yaml"
    policy.write_text("users: {ada: {roles: []}}")
    write_note(data, launcher_pid)
    note_policy(policy, launcher_pid)
    (found,) = await check_policy()
    assert (found.level, found.told) == (
        "ok",
        f"{policy} (that of `millstream up`): 1 users, 0 roles",
    )
    monkeypatch.setenv("MILLSTREAM_POLICY_FILE", str(data / "other.yaml"))
    apart, used = await check_policy()
    assert (apart.level, used) == ("note", found)
    assert f"MILLSTREAM_POLICY_FILE names {data / 'other.yaml'}" in apart.told


@pytest.mark.parametrize("of", ["another-launcher", "another-kafka", "nobody"])
async def test_a_policy_is_not_taken_for_that_of_an_up_that_it_is_not(
    data: Path, launcher_pid: int, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    if of != "nobody":
        write_note(data, launcher_pid)
        note_policy(data / "p.yaml", launcher_pid + (of == "another-launcher"))
    if of == "another-kafka":
        monkeypatch.setenv("MILLSTREAM_KAFKA", "elsewhere:9092")
    assert policy_of_up(local_settings()) is None
    (found,) = await check_policy()
    assert found.level == "note"
    assert found.told.startswith("none is named here; each worker has the one that it ")


def test_the_note_of_a_launcher_that_is_gone_is_not_believed(data: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    write_note(data, ended.pid)
    assert running_endpoints(data) is None


def test_a_note_that_cannot_be_read_is_told(data: Path) -> None:
    (data / "endpoints.json").write_text("{}")
    with pytest.raises(Misconfigured, match=r"endpoints\.json cannot be read"):
        running_endpoints(data)


def test_the_environment_wins_over_what_runs_here(
    data: Path, launcher_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_note(data, launcher_pid)
    monkeypatch.setenv("MILLSTREAM_KAFKA", "elsewhere:9092")
    settings = settings_for_client()
    assert settings.kafka == "elsewhere:9092"
    assert settings.redis_url == "redis://127.0.0.1:6379/0"


def test_the_redis_of_the_same_kafka_goes_with_it(
    data: Path, launcher_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_note(data, launcher_pid)
    monkeypatch.setenv("MILLSTREAM_KAFKA", "127.0.0.1:1")
    assert settings_for_client().redis_url == "redis://127.0.0.1:2/0"


def test_an_empty_variable_counts_as_none(
    data: Path, launcher_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_note(data, launcher_pid)
    monkeypatch.setenv("MILLSTREAM_KAFKA", "")
    assert settings_for_client().kafka == "127.0.0.1:1"


def test_a_file_of_a_secret_holds_wherever_a_child_is_started_and_a_secret_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("hunter2\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILLSTREAM_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("MILLSTREAM_KAFKA_SASL_MECHANISM", "PLAIN")
    monkeypatch.setenv("MILLSTREAM_KAFKA_SASL_USERNAME", "ada")
    monkeypatch.setenv("MILLSTREAM_KAFKA_SASL_PASSWORD_FILE", "secret")
    assert local_settings().kafka_sasl_password_file == tmp_path / "secret"
    for mistaken in ("hunter2", "h" * 300):
        monkeypatch.setenv("MILLSTREAM_KAFKA_SASL_PASSWORD_FILE", mistaken)
        with pytest.raises(Misconfigured, match="names no file that can be read") as told:
            live_security(local_settings())
        assert mistaken not in str(told.value)


def test_what_is_set_for_topics_holds_wherever_a_child_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "topics.yaml").write_text("tokens: {retention.ms: 7200000}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILLSTREAM_TOPICS_FILE", "topics.yaml")
    monkeypatch.setenv("MILLSTREAM_TOPICS", '{"tokens": {"segment.ms": null}}')
    settings = local_settings()
    monkeypatch.chdir("/")
    for name, value in child_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert local_settings().topics == settings.topics
    assert settings.topics == {"tokens": {"retention.ms": 7_200_000, "segment.ms": None}}


def test_paths_hold_wherever_a_child_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_POLICY_FILE", "policy.yaml")
    settings = local_settings()
    assert settings.policy_file == Path.cwd() / "policy.yaml"
    assert settings.data_dir == data_folder()


def write_secure_note(data: Path, pid: int) -> Path:
    """Note services with users; gives the folder of their files."""
    secure = data / "secure"
    note = {"kafka": "127.0.0.1:1", "redis_url": "redis://127.0.0.1:2/0", "launcher_pid": pid}
    (data / "endpoints.json").write_text(json.dumps({**note, "secure": str(secure)}))
    return secure


def test_whoever_is_a_user_of_what_runs_here_is_the_same_user_of_redis(
    data: Path, launcher_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure = write_secure_note(data, launcher_pid)
    monkeypatch.setenv("MILLSTREAM_KAFKA_CONFIG", f"{secure}/auditor/client.properties")
    monkeypatch.setenv("MILLSTREAM_KAFKA", "127.0.0.1:1")
    settings = settings_for_client()
    assert (settings.kafka, settings.redis_url) == ("127.0.0.1:1", "redis://127.0.0.1:2/0")
    assert settings.redis_username == "auditor"
    assert settings.redis_password_file == secure / "auditor" / "redis-password"


def test_a_user_of_redis_that_is_named_stays(
    data: Path, launcher_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure = write_secure_note(data, launcher_pid)
    monkeypatch.setenv("MILLSTREAM_KAFKA", "127.0.0.1:1")
    monkeypatch.setenv("MILLSTREAM_KAFKA_CONFIG", f"{secure}/auditor/client.properties")
    monkeypatch.setenv("MILLSTREAM_REDIS_USERNAME", "ada")
    assert settings_for_client().redis_username == "ada"


def test_without_a_user_it_is_told_how_to_be_one(data: Path, launcher_pid: int) -> None:
    secure = write_secure_note(data, launcher_pid)
    with pytest.raises(
        Misconfigured, match=f"set MILLSTREAM_KAFKA_CONFIG={secure}/USER/client.properties"
    ):
        settings_for_client()


def test_the_users_of_what_runs_here_are_nothing_to_another_kafka(
    data: Path, launcher_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_secure_note(data, launcher_pid)
    monkeypatch.setenv("MILLSTREAM_KAFKA", "elsewhere:9092")
    settings = settings_for_client()
    assert (settings.kafka, settings.redis_username) == ("elsewhere:9092", None)
