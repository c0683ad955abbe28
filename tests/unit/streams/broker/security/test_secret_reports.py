"""What went wrong elsewhere with settings and secrets, tried on ours.

Public reports, and what went wrong there:

- kubernetes/kubernetes#23404, #28086, linuxserver/docker-speedtest-tracker#23: the end of a line
  gets into a variable or a file, and so into the password.
- Eppie-io/Eppie-CLI#622, mtrojnar/osslsigncode#78: a byte order mark is taken for a part of it.
- apache/camel-kamelets#2975, devshawn/kafka-gitops#43, Apicurio/apicurio-registry-operator#75,
  apache/fluss#2698: signs in a password that `sasl.jaas.config` wants quoted.
- WeblateOrg/weblate#5750, jnbt/java-properties#7, Kajabity/Kajabity.Tools.Java#7: in properties, a
  character of two escapes, escapes before digits, and ones that go over the end of a line.
- sngular/kloadgen#303, hashicorp/vault#16142: a secret where a file's name is wanted, and the
  reverse.
- apache/kafka#15475 (KAFKA-16345): a property that clients of Kafka know.
- dpkp/kafka-python#2606, confluentinc/vscode#511: `SASL_SSL://` before a broker's host.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.certificates import context_of
from millstream.streams.broker.security.given import read_secret
from millstream.streams.broker.security.jaas import parse_jaas
from millstream.streams.broker.security.kafka_security import KafkaSecurity, read_security
from millstream.streams.broker.security.live import LiveSecurity
from millstream.streams.connection_settings import ConnectionSettings
from millstream.streams.properties_file import parse_properties, read_properties
from millstream.streams.settings import Settings, load_settings

SECRET = "hunter2-it-is"  # noqa: S105  the tests' own
OF_USER = {
    "MILLSTREAM_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "MILLSTREAM_KAFKA_SASL_MECHANISM": "PLAIN",
    "MILLSTREAM_KAFKA_SASL_USERNAME": "ada",
    "MILLSTREAM_KAFKA_SASL_PASSWORD": SECRET,
}
OF_TOKENS = """
security.protocol=SASL_SSL
sasl.mechanism=OAUTHBEARER
sasl.oauthbearer.client.id=ada
sasl.oauthbearer.client.secret=hunter2-it-is
"""


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Callable[..., KafkaSecurity]:
    """Read what variables say, beside a user of PLAIN."""

    def read(**more: str) -> KafkaSecurity:
        for name, value in (OF_USER | more).items():
            monkeypatch.setenv(name, value)
        security = read_security(load_settings())
        if security.tls is not None:
            context_of(security.tls)
        return security

    return read


def of_file(tmp_path: Path, text: str) -> KafkaSecurity:
    path = tmp_path / "client.properties"
    path.write_text(text, encoding="utf-8")
    return read_security(Settings(kafka_config=path))


def password_of(security: KafkaSecurity) -> str:
    assert security.password is not None
    return security.password.value


def test_the_end_of_a_line_in_a_variable_is_no_part_of_it(
    variables: Callable[..., KafkaSecurity],
) -> None:
    found = variables(**{f"{name}": f"{value}\n" for name, value in OF_USER.items()})
    assert found.username is not None
    assert (found.username.value, password_of(found)) == ("ada", SECRET)


TEXTS = [
    name
    for name, field in ConnectionSettings.model_fields.items()
    if "str" in str(field.annotation) or "Path" in str(field.annotation)
]


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
@pytest.mark.parametrize("name", [n for n in TEXTS if not n.endswith(("_password", "_secret"))])
def test_an_empty_setting_is_told_and_means_neither_a_folder_nor_nobody(
    variables: Callable[..., KafkaSecurity], name: str, blank: str
) -> None:
    with pytest.raises(Misconfigured, match=f"MILLSTREAM_{name.upper()}: is empty: set it, or"):
        variables(**{f"MILLSTREAM_{name.upper()}": blank})


def test_a_password_of_blanks_is_empty(variables: Callable[..., KafkaSecurity]) -> None:
    with pytest.raises(Misconfigured, match="MILLSTREAM_KAFKA_SASL_PASSWORD is empty"):
        variables(MILLSTREAM_KAFKA_SASL_PASSWORD=" \n")  # noqa: S106  none


@pytest.mark.parametrize(
    "secret", ["${env:HOME}", "$HOME", "%d%s%41", "{0}", "a#b", "a=b", "a:b", "p\\w", "'\"", "ключ"]
)
def test_a_password_is_taken_as_it_stands_wherever_it_stands(
    variables: Callable[..., KafkaSecurity], tmp_path: Path, secret: str
) -> None:
    assert password_of(variables(MILLSTREAM_KAFKA_SASL_PASSWORD=secret)) == secret
    file = tmp_path / "secret"
    file.write_text(f"{secret}\n", encoding="utf-8")
    assert read_secret(file, named="X") == secret
    escaped = secret.replace("\\", "\\\\")
    head = "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\n"
    assert password_of(of_file(tmp_path, f"{head}sasl.username=a\nsasl.password={escaped}")) == (
        secret
    )
    quoted = json.dumps(secret, ensure_ascii=False).replace("\\", "\\\\")
    jaas = f"sasl.jaas.config=a.PlainLoginModule required username=a password={quoted};"
    assert password_of(of_file(tmp_path, head + jaas)) == secret


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET, encoding="utf-8-sig")
    assert read_secret(file, named="X") == SECRET
    file.write_text("security.protocol=SSL", encoding="utf-8-sig")
    assert read_properties(file, named="X") == {"security.protocol": "SSL"}


@pytest.mark.parametrize("value", [SECRET, f"{SECRET}\nmore", "x" * 300, "y" * 5000])
def test_a_secret_where_its_file_is_to_be_named_is_shown_to_nobody(
    variables: Callable[..., KafkaSecurity],
    monkeypatch: pytest.MonkeyPatch,
    value: str,
) -> None:
    monkeypatch.setitem(OF_USER, "MILLSTREAM_KAFKA_SASL_PASSWORD_FILE", value)
    monkeypatch.delitem(OF_USER, "MILLSTREAM_KAFKA_SASL_PASSWORD")
    with pytest.raises(Misconfigured) as told:
        variables()
    assert str(told.value) == (
        "MILLSTREAM_KAFKA_SASL_PASSWORD_FILE: it names no file that can be read: write the secret "
        "to a file"
    )


def test_properties_in_the_place_of_their_file_are_shown_to_nobody() -> None:
    text = f"security.protocol=SASL_SSL\nsasl.password={SECRET}"
    with pytest.raises(Misconfigured, match="MILLSTREAM_KAFKA_CONFIG: it must name a file"):
        read_security(Settings(kafka_config=Path(text)))


def test_a_secret_that_is_too_long_is_not_cut(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"x" * 70_000)
    with pytest.raises(Misconfigured, match="has more than 65536 bytes"):
        read_secret(file, named="X")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("name=a\u2028b\x85c\x0cd", "a\u2028b\x85c\x0cd"),
        (r"name=\ud83d\ude00", "\U0001f600"),
        (r"name=B\u00FCckeburg", "Bückeburg"),
        ("name=\\u00\\\n  41", "A"),
        ("name=\u00a0a", "\u00a0a"),
        ("name=a\\\n# b", "a# b"),
        ("name=${a} %s", "${a} %s"),
    ],
)
def test_properties_are_read_as_java_reads_them(line: str, value: str) -> None:
    assert parse_properties(f"{line}\nother=1") == {"name": value, "other": "1"}


@pytest.mark.parametrize(
    ("value", "words"),
    [(r"\u00g1", "lacks its four digits"), (r"\ud83d", "half of a character")],
)
def test_an_escape_that_is_none_is_told_without_the_value(
    tmp_path: Path, value: str, words: str
) -> None:
    with pytest.raises(Misconfigured) as told:
        of_file(tmp_path, f"sasl.password={SECRET}{value}")
    assert words in str(told.value)
    assert SECRET not in str(told.value)


def test_blanks_around_a_secret_count_and_are_told_and_around_others_they_do_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "client.properties"
    path.write_text(
        "security.protocol=SASL_SSL \nsasl.mechanism=PLAIN\t\nsasl.username=ada \n"
        f"sasl.password={SECRET} \n"
    )
    path.chmod(0o600)
    live = LiveSecurity(Settings(kafka_config=path))
    security, _ = live.now()
    assert security.username is not None
    assert (security.username.value, password_of(security)) == ("ada", f"{SECRET} ")
    (warning,) = live.warnings()
    assert warning == (
        f"sasl.password in {path}: it begins or ends with a blank, which counts as a part of it"
    )


@pytest.mark.parametrize(
    ("text", "user", "password"),
    [
        ('REQUIRED username="a" password="b";', "a", "b"),
        (
            'required username="$ConnectionString" password="Endpoint=sb://n.x/;SharedAccessKey=c=";',
            "$ConnectionString",
            "Endpoint=sb://n.x/;SharedAccessKey=c=",
        ),
        (r'required username="a" password="x\"y\\z\tt\101";', "a", 'x"y\\z\ttA'),
        ("required\n username='a,b=c'\n password='it\"s'\n;", "a,b=c", 'it"s'),
        ('required password="b" username="a" ; ', "a", "b"),
    ],
)
def test_jaas_is_read_as_kafka_reads_it(text: str, user: str, password: str) -> None:
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    found = parse_jaas(f"{module} {text}", named="X")
    assert found == {"sasl.username": user, "sasl.password": password}


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("file:///run/token", "/run/token"),
        ("file://localhost/run/token", "/run/token"),
        ("file:///run/a%20b%25", "/run/a b%"),
        ("FILE:///run/token", "/run/token"),
        ("HTTPS://idp.example/token", None),
        ("http://[::1]/token", None),
        ("http://localhost:8080/token", None),
    ],
)
def test_a_url_of_tokens_is_read_as_urls_are(tmp_path: Path, url: str, file: str | None) -> None:
    found = of_file(tmp_path, f"{OF_TOKENS}sasl.oauthbearer.token.endpoint.url={url}").tokens
    assert found is not None
    assert found.file == (None if file is None else Path(file))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://localhost:80@idp.example/token", "must be https://HOST"),
        ("http://localhost.idp.example/token", "must be https://HOST"),
        ("https:///token", "must be https://HOST"),
        ("https://idp.example:99999/token", "must be https://HOST"),
        ("file://", "must be https://HOST"),
        ("file://elsewhere/token", "must be https://HOST"),
        (f"https://ada:{SECRET}@idp.example/token", "has a user in it"),
    ],
)
def test_no_secret_goes_to_a_url_that_only_looks_safe(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(Misconfigured) as told:
        of_file(tmp_path, f"{OF_TOKENS}sasl.oauthbearer.token.endpoint.url={url}")
    assert words in str(told.value)
    shown = Settings(kafka_sasl_oauthbearer_token_endpoint_url=url)
    assert SECRET not in f"{told.value} {shown!r}"


def test_a_file_with_a_clients_secret_that_all_may_read_is_told(tmp_path: Path) -> None:
    text = f"{OF_TOKENS}sasl.oauthbearer.token.endpoint.url=https://idp.example/token"
    (tmp_path / "client.properties").touch(mode=0o644)
    (tmp_path / "client.properties").chmod(0o644)
    assert of_file(tmp_path, text).open_secrets() == (tmp_path / "client.properties",)
    # Kubernetes gives a group its files by `fsGroup`, at 0440.
    (tmp_path / "client.properties").chmod(0o440)
    assert read_security(Settings(kafka_config=tmp_path / "client.properties")).open_secrets() == ()


@pytest.mark.parametrize(("word", "verifies"), [("0", "no"), ("F", "no"), ("1", "yes")])
def test_a_switch_is_read_as_librdkafka_reads_it(tmp_path: Path, word: str, verifies: str) -> None:
    text = f"security.protocol=SSL\nenable.ssl.certificate.verification={word}"
    found = of_file(tmp_path, text).tls
    assert found is not None
    assert found.verifies is (verifies == "yes")
    with pytest.raises(Misconfigured, match="write true or false"):
        of_file(tmp_path, "security.protocol=SSL\nenable.ssl.certificate.verification=off")


def test_what_clients_of_kafka_know_and_do_not_need_here_is_passed_over(tmp_path: Path) -> None:
    names = ("sasl.kerberos.service.name", "sasl.oauthbearer.sub.claim.name")
    found = of_file(tmp_path, "".join(f"{name}=x\n" for name in names))
    assert found.passed_over == names


def test_brokers_of_a_file_are_taken_without_blanks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "client.properties"
    path.write_text("bootstrap.servers = a.example:9092,b.example:9092 \n")
    monkeypatch.setenv("MILLSTREAM_KAFKA_CONFIG", f"{path}\n")
    assert load_settings().kafka == "a.example:9092,b.example:9092"


@pytest.mark.parametrize(
    ("given", "brokers"),
    [
        (" a.example:9093, b.example:9093 ,", "a.example:9093,b.example:9093"),
        ("SASL_SSL://a.example:9093,PLAINTEXT://b:9092", "a.example:9093,b:9092"),
        ("a.example:9093,,b.example", "a.example:9093,b.example"),
        ("[::1]:9092,::1", "[::1]:9092,::1"),
    ],
)
def test_brokers_are_named_as_kafkas_clients_take_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, brokers: str
) -> None:
    path = tmp_path / "client.properties"
    path.write_text(f"bootstrap.servers={given}")
    monkeypatch.setenv("MILLSTREAM_KAFKA_CONFIG", str(path))
    assert load_settings().kafka == brokers
    monkeypatch.setenv("MILLSTREAM_KAFKA", given)
    assert load_settings().kafka == brokers


@pytest.mark.parametrize(
    "given", [",", "a:x", "a:0", "a:70000", "http://a:9092/", "a b:9092", "a;b:1"]
)
def test_a_list_of_brokers_that_is_none_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    path = tmp_path / "client.properties"
    path.write_text(f"bootstrap.servers={given}")
    monkeypatch.setenv("MILLSTREAM_KAFKA_CONFIG", str(path))
    with pytest.raises(Misconfigured, match=r"bootstrap.servers in .* must name brokers"):
        load_settings()
    monkeypatch.setenv("MILLSTREAM_KAFKA", given)
    with pytest.raises(Misconfigured, match="MILLSTREAM_KAFKA: must name brokers, as HOST:PORT"):
        load_settings()


def test_authorities_that_librdkafka_is_to_look_for_are_the_systems(tmp_path: Path) -> None:
    found = of_file(tmp_path, "security.protocol=SSL\nssl.ca.location=probe").tls
    assert found is not None
    assert found.authorities is None


@pytest.mark.parametrize(
    ("mechanism", "protocol", "words"),
    [
        ("PLAIN", "SASL_PLAINTEXT", ["the password goes over the network in clear", "takes the"]),
        ("SCRAM-SHA-512", "SASL_PLAINTEXT", ["nothing takes the place of a ${…} in it"]),
        ("PLAIN", "SASL_SSL", ["nothing takes the place of a ${…} in it"]),
    ],
)
def test_a_secret_that_goes_in_clear_or_was_to_be_replaced_is_told(
    mechanism: str, protocol: str, words: list[str]
) -> None:
    settings = Settings(
        kafka_security_protocol=protocol,
        kafka_sasl_mechanism=mechanism,
        kafka_sasl_username="ada",
        kafka_sasl_password=f"${{file:/run/secrets:{SECRET}}}",
    )
    found = LiveSecurity(settings).warnings()
    assert len(found) == len(words)
    assert all(any(word in line for line in found) for word in words)
    assert SECRET not in "".join(found)
