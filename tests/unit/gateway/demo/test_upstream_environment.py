"""What the upstream program of the demonstration is told, and what it could not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from millstream.gateway.demo.upstream_environment import upstream_environment
from millstream.schemas.errors import Misconfigured
from millstream.streams.settings import Settings
from tests.making.certificates import Authority


def settings_of(authority: Authority, **more: Any) -> Settings:
    given = {"security_protocol": "SSL", "ssl_ca_location": authority.path, **more}
    return Settings(**{f"kafka_{name}": value for name, value in given.items()})


def test_files_of_pem_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.sign("own")
    told = upstream_environment(settings_of(authority, ssl_certificate_location=own.both))
    assert told["KAFKA_SSL_CERTIFICATE_LOCATION"] == str(own.both)
    assert told["KAFKA_SSL_CA_LOCATION"] == str(authority.path)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("encrypted", "no key that is encrypted"),
        ("inline", "as files of PEM alone"),
        ("any host", "no broker whose certificate is not for its host"),
    ],
)
def test_what_it_could_not_do_is_refused_before_it_asks_at_the_terminal(
    tmp_path: Path, case: str, words: str
) -> None:
    authority = Authority(tmp_path)
    own = authority.sign("own", password="hunter2" if case == "encrypted" else None)
    more: dict[str, Any] = {"ssl_certificate_location": own.both}
    if case == "encrypted":
        more["ssl_key_password"] = "hunter2"  # noqa: S105  the tests' own
    elif case == "any host":
        more["ssl_endpoint_identification_algorithm"] = "none"
    else:
        lines = tmp_path / "client.properties"
        pem = own.both.read_text().replace("\n", "\\n")
        lines.write_text(f"ssl.keystore.key={pem}\nssl.keystore.certificate.chain={pem}\n")
        more = {"config": lines}
    with pytest.raises(Misconfigured, match=words):
        upstream_environment(settings_of(authority, **more))
