"""What settings and their files come to, and what is said of those that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.kafka_security import KafkaSecurity, read_security
from millstream.streams.settings import Settings

SECRET = "hunter2-it-is"  # noqa: S105  the tests' own


def given(**settings: object) -> KafkaSecurity:
    return read_security(Settings(**{f"kafka_{name}": value for name, value in settings.items()}))


def of_file(tmp_path: Path, text: str, **settings: object) -> KafkaSecurity:
    path = tmp_path / "client.properties"
    path.write_text(text, encoding="utf-8")
    return given(config=path, **settings)


def user_of(security: KafkaSecurity) -> tuple[object, ...]:
    name, password = security.username, security.password
    return (
        security.protocol,
        security.mechanism,
        name and name.value,
        password and password.value,
    )


def test_nothing_given_is_plaintext() -> None:
    assert given() == KafkaSecurity()


def test_variables_name_user_and_password() -> None:
    found = given(
        security_protocol="sasl_plaintext",
        sasl_mechanism="scram-sha-512",
        sasl_username="ada",
        sasl_password=SECRET,
    )
    assert user_of(found) == ("SASL_PLAINTEXT", "SCRAM-SHA-512", "ada", SECRET)


JAVA = """
bootstrap.servers=broker:9093
security.protocol=SASL_SSL
sasl.mechanism=PLAIN
sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
  username="ada" \\
  password="it\\\\"s; a=b";
ssl.truststore.type=PEM
ssl.truststore.location=/etc/ca.pem
client.dns.lookup=use_all_dns_ips
session.timeout.ms=45000
ssl.protocol=TLSv1.3
"""


def test_javas_file_is_read_and_what_it_says_beside_is_named(tmp_path: Path) -> None:
    found = of_file(tmp_path, JAVA)
    assert user_of(found) == ("SASL_SSL", "PLAIN", "ada", 'it"s; a=b')
    assert found.passed_over == ("client.dns.lookup", "session.timeout.ms", "ssl.protocol")
    assert found.tls is not None
    assert found.tls.paths == (Path("/etc/ca.pem"),)


def test_librdkafkas_file_is_read(tmp_path: Path) -> None:
    text = f"""
security.protocol=sasl_ssl
sasl.mechanisms=SCRAM-SHA-256
sasl.username=ada
sasl.password={SECRET}
ssl.ca.location=/ca.pem
ssl.certificate.location=/own.crt
ssl.key.location=/own.key
ssl.endpoint.identification.algorithm=none
"""
    found = of_file(tmp_path, text)
    assert user_of(found) == ("SASL_SSL", "SCRAM-SHA-256", "ada", SECRET)
    assert found.tls is not None
    assert found.tls.paths == (Path("/ca.pem"), Path("/own.crt"), Path("/own.key"))
    assert not found.tls.checks_host


def test_a_variable_wins_over_the_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(f"{SECRET}\n")
    found = of_file(tmp_path, JAVA, sasl_password_file=secret, sasl_username="bob")
    assert user_of(found) == ("SASL_SSL", "PLAIN", "bob", SECRET)


def test_javas_names_of_client_credentials_and_extensions(tmp_path: Path) -> None:
    text = f"""
security.protocol=SASL_SSL
sasl.mechanism=OAUTHBEARER
sasl.login.callback.handler.class=org.apache.kafka.common.security.oauthbearer.\\
OAuthBearerLoginCallbackHandler
sasl.oauthbearer.token.endpoint.url=https://idp.example/token
sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \\
  clientId="ada" clientSecret='{SECRET}' scope="kafka" \\
  extension_logicalCluster="lkc-1" extension_identityPoolId="pool-2";
"""
    found = of_file(tmp_path, text).tokens
    assert found is not None
    assert found.client_id is not None
    assert found.client_id.value == "ada"
    assert found.client_secret is not None
    assert found.client_secret.value == SECRET
    assert found.extensions == (("logicalCluster", "lkc-1"), ("identityPoolId", "pool-2"))


def test_a_token_may_stand_in_a_file() -> None:
    found = given(
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="OAUTHBEARER",
        sasl_oauthbearer_token_endpoint_url="file:///run/token",  # noqa: S106  a URL
    )
    assert found.tokens is not None
    assert found.tokens.file == Path("/run/token")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("security.protocol=SSL\nssl.truststore.type=JKS", "keytool -importkeystore"),
        ("security.protokol=SSL", "did you mean security.protocol"),
        ("ssl.keystore.locations=/x", "did you mean ssl.keystore.location"),
        ("config.providers=file", "config.providers"),
        ("security.protocol=TLS", "must be one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        ("security.protocol=SASL_SSL", "set MILLSTREAM_KAFKA_SASL_MECHANISM"),
        ("security.protocol=SASL_SSL\nsasl.mechanism=GSSAPI", "GSSAPI is not spoken here"),
        (
            "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.username=ada",
            "MILLSTREAM_KAFKA_SASL_PASSWORD or MILLSTREAM_KAFKA_SASL_PASSWORD_FILE",
        ),
        (
            "sasl.login.callback.handler.class=software.amazon.msk.auth.iam.IAMClientCallbackHandler",
            "sasl.login.callback.handler.class",
        ),
        (f'sasl.jaas.config=a.PlainLoginModule required user="{SECRET}";', "no option user"),
        (f'sasl.jaas.config=a.Krb5LoginModule required password="{SECRET}";', "is read for"),
        (
            f'sasl.jaas.config=a.PlainLoginModule required username="a" password="{SECRET}',
            "behind option 1 cannot be read",
        ),
        (
            (
                "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\n"
                f"sasl.oauthbearer.client.secret={SECRET}\nsasl.oauthbearer.client.id=a\n"
                "sasl.oauthbearer.token.endpoint.url=http://idp.example/token"
            ),
            "must be https://",
        ),
    ],
)
def test_a_file_that_is_wrong_is_told_in_one_line_without_a_secret(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(Misconfigured) as told:
        of_file(tmp_path, text)
    assert words in str(told.value)
    assert "\n" not in str(told.value)
    assert SECRET not in str(told.value)


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="both MILLSTREAM_KAFKA_SASL_PASSWORD and"):
        given(
            security_protocol="SASL_SSL",
            sasl_mechanism="PLAIN",
            sasl_username="ada",
            sasl_password=SECRET,
            sasl_password_file=tmp_path / "x",
        )


def test_a_mechanism_without_its_protocol_is_refused() -> None:
    with pytest.raises(Misconfigured, match="set MILLSTREAM_KAFKA_SECURITY_PROTOCOL"):
        given(sasl_mechanism="PLAIN")


def test_nothing_shows_a_secret(tmp_path: Path) -> None:
    found = of_file(
        tmp_path,
        f"security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.username=a\n"
        f"sasl.password={SECRET}\nssl.key.pem={SECRET}\nssl.key.password={SECRET}",
    )
    assert SECRET not in repr(found)
    assert SECRET not in str(found)
