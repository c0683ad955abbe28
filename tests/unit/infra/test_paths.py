from __future__ import annotations

from pathlib import Path

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
