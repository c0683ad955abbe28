from __future__ import annotations

from pathlib import Path

import pytest

from millstream.infra.paths import PROJECT, ExternalServices, cache_folder, trust


def test_the_environment_names_services_and_an_empty_name_is_none() -> None:
    environment = {"MILLSTREAM_KAFKA": "broker:9092", "MILLSTREAM_REDIS_URL": ""}
    assert ExternalServices.from_environment(environment) == ExternalServices("broker:9092", None)


def test_the_cache_is_the_projects_unless_the_environment_names_another(tmp_path: Path) -> None:
    assert cache_folder({}) == PROJECT / ".millstream" / "cache"
    assert cache_folder({"MILLSTREAM_CACHE": str(tmp_path)}) == tmp_path


def test_the_certificates_pip_and_uv_were_given_serve_the_jars_too() -> None:
    assert trust({"PIP_CERT": "/a", "SSL_CERT_FILE": "/b"}) == "/b"
    assert trust({"PIP_CERT": "/a"}) == "/a"
    assert trust({}) is None


@pytest.mark.parametrize(
    ("environment", "kafka", "redis"),
    [
        ({}, False, False),
        ({"MILLSTREAM_KAFKA_SECURITY_PROTOCOL": "plaintext"}, False, False),
        ({"MILLSTREAM_KAFKA_SECURITY_PROTOCOL": "sasl_ssl"}, True, False),
        ({"MILLSTREAM_KAFKA_CONFIG": "client.properties"}, True, False),
        ({"MILLSTREAM_REDIS_URL": "rediss://redis:6380/0"}, False, True),
        ({"MILLSTREAM_REDIS_PASSWORD_FILE": "password"}, False, True),
    ],
)
def test_services_that_want_a_user_or_tls_are_known_as_secured(
    environment: dict[str, str], *, kafka: bool, redis: bool
) -> None:
    found = ExternalServices.from_environment(environment)
    assert (found.kafka_secured, found.redis_secured) == (kafka, redis)
