"""Settings come from the environment, say what is wrong with it, and reach child processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from millstream.schemas.errors import Misconfigured
from millstream.streams.settings import Settings, child_environment, load_settings


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_PARTITIONS", "12")
    monkeypatch.setenv("MILLSTREAM_CHAIN_CUTS", '["executor"]')
    settings = load_settings()
    assert (settings.partitions, settings.chain_cuts) == (12, ("executor",))


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_NAMESPACE", "theirs")
    assert load_settings(namespace="ours").namespace == "ours"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PARTITIONS", "0"),
        ("PARTITIONS", "many"),
        ("NAMESPACE", "../x"),
        ("COMMIT_TIMEOUT_S", "-1"),
        ("LOG_LEVEL", "loud"),
        ("CHAIN_CUTS", "executor"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MILLSTREAM_{name}", value)
    with pytest.raises(Misconfigured, match=f"(?i)(MILLSTREAM_)?{name}"):
        load_settings()


def test_all_wrong_variables_are_told_at_once() -> None:
    with pytest.raises(Misconfigured) as told:
        load_settings(partitions=0, token_coalesce_s=9)
    assert "MILLSTREAM_PARTITIONS" in str(told.value)
    assert "MILLSTREAM_TOKEN_COALESCE_S" in str(told.value)


def test_a_misspelt_variable_is_named_with_the_nearest_right_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MILLSTREAM_REPLICATON", "3")
    with pytest.raises(Misconfigured, match=r"MILLSTREAM_REPLICATON; did you mean .*REPLICATION"):
        load_settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().partitions = 9  # type: ignore[misc]


def test_a_topics_name_begins_with_the_namespace() -> None:
    assert Settings(namespace="a").topic("requests") == "a.requests"


def test_a_child_gets_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(
        namespace="a", chain_cuts=("executor",), data_dir=Path("/x"), commit_timeout_s=1.5
    )
    for name, value in child_environment(given).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == given


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{vllm: http}", 'MILLSTREAM_MODEL_ENDPOINTS must be JSON, for instance {"vllm"'),
        ('{"vllm": {"base_url": "10.0.0.5/v1"}}', "begins with http:// or https://"),
        ('{"local": {"base_url": "http://x/v1"}}', "'local' is a name of Millstream's own"),
        ('{"vllm": {"base_url": "http://x/v1", "api_key": "sk-secret"}}', "API_KEY: Extra inputs"),
    ],
)
def test_a_mistake_in_a_servers_settings_is_named_and_shows_no_key(
    value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLSTREAM_MODEL_ENDPOINTS", value)
    with pytest.raises(Misconfigured) as raised:
        load_settings()
    assert words in str(raised.value)
    assert "sk-secret" not in str(raised.value)


def test_no_password_is_shown_and_a_child_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "rediss://ada:hunter2@h:1/0?sentinel_password=hunter2"
    given = Settings(
        redis_url=url,
        kafka_sasl_password="hunter2",  # type: ignore[arg-type]  # noqa: S106
        kafka_ssl_endpoint_identification_algorithm="none",  # type: ignore[arg-type]
    )
    assert "hunter2" not in f"{given!r} {given}"
    assert "rediss://ada:***@h:1/0" in repr(given)
    for name, value in child_environment(given).items():
        monkeypatch.setenv(name, value)
    again = load_settings()
    assert again == given
    assert again.kafka_sasl_password is not None
    assert again.kafka_sasl_password.get_secret_value() == "hunter2"


def test_brokers_of_a_file_of_properties_count_where_no_variable_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "client.properties"
    file.write_text("bootstrap.servers=broker:9093\n")
    monkeypatch.setenv("MILLSTREAM_KAFKA_CONFIG", str(file))
    assert load_settings().kafka == "broker:9093"
    assert "kafka" in load_settings().model_fields_set
    monkeypatch.setenv("MILLSTREAM_KAFKA", "other:9092")
    assert load_settings().kafka == "other:9092"
