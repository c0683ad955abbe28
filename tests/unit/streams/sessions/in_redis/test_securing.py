"""Secrets and contexts of TLS for Redis, as their files change."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from millstream.streams.sessions.in_redis.securing import (
    RenewedContext,
    open_secrets,
    tls_options,
    told_refusal,
    user_options,
)
from millstream.streams.settings import Settings
from tests.making.certificates import Authority


def context_by(settings: Settings, **more: object) -> RenewedContext:
    given = {
        name.removeprefix("ssl_"): value
        for name, value in tls_options(settings).items()
        if name != "ssl"
    }
    return RenewedContext(**{"cert_reqs": "required", **given, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("first", ["the password", "the key"])
def test_a_key_and_its_password_may_change_one_after_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    authority = Authority(tmp_path)
    own, file = authority.sign("own", password="one"), tmp_path / "password"  # noqa: S106
    file.write_text("one\n")
    made = context_by(
        Settings(
            redis_ssl_ca_certs=authority.path,
            redis_ssl_certfile=own.both,
            redis_ssl_password_file=file,
        )
    )
    before = made.get()
    # Another one: what is known of contexts is by their files.
    assert isinstance(before, ssl.SSLContext)

    def password() -> None:
        file.write_text("two\n")

    def key() -> None:
        authority.sign("own", password="two")  # noqa: S106

    change, then = (password, key) if first == "the password" else (key, password)
    change()
    assert [made.get() is before for _ in range(3)] == [True] * 3
    assert len([one for one in caplog.records if "stays in use" in one.message]) == 1
    then()
    assert made.get() is not before


def test_a_secret_that_cannot_be_read_for_a_while_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "password"
    file.write_text("one\n")
    provider = user_options(Settings(redis_password_file=file), {})["credential_provider"]
    file.unlink()
    assert [provider.get_credentials() for _ in range(3)] == [("one",)] * 3
    file.write_text("two\n")
    assert provider.get_credentials() == ("two",)
    file.unlink()
    assert provider.get_credentials() == ("two",)
    assert [one.message.count("there is no file") for one in caplog.records] == [1, 1]


@pytest.mark.parametrize("given", ["right", "", "wrong"])
def test_a_keys_password_counts_beside_options_of_redis_own(tmp_path: Path, given: str) -> None:
    authority = Authority(tmp_path)
    own = authority.sign("own", password="right")  # noqa: S106
    settings = Settings(
        redis_ssl_certfile=own.both, **({"redis_ssl_password": given} if given else {})
    )
    made = context_by(settings, min_version=ssl.TLSVersion.TLSv1_3)
    if given == "right":
        assert made.get().minimum_version is ssl.TLSVersion.TLSv1_3
    else:
        with pytest.raises((ssl.SSLError, RedisConnectionError)):
            made.get()


def test_a_certificate_with_its_key_that_all_may_read_is_told(tmp_path: Path) -> None:
    own = Authority(tmp_path).sign("own")
    own.both.chmod(0o644)
    assert open_secrets(Settings(redis_ssl_certfile=own.both)) == (own.both,)
    own.certificate.chmod(0o644)
    apart = Settings(redis_ssl_certfile=own.certificate, redis_ssl_keyfile=own.key)
    assert open_secrets(apart) == ()


def test_a_file_that_is_not_there_is_told_and_not_what_the_server_might_want() -> None:
    made = context_by(Settings(redis_ssl_ca_certs=Path("/nowhere/ca.pem")))
    with pytest.raises(RedisConnectionError) as told:
        made.get()
    assert "/nowhere/ca.pem" in (told_refusal(told.value) or "")
