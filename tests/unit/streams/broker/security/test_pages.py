"""The pages on secured brokers: what they say to set is what the settings take."""

from __future__ import annotations

import re
import shlex
from datetime import timedelta
from pathlib import Path

import pytest

from millstream.streams.broker.security.live import live_security
from millstream.streams.settings import load_settings
from tests.making.certificates import Authority

PAGES = Path(__file__).parents[5] / "docs" / "how-to"
_FENCE = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets() -> list[tuple[str, str]]:
    """Give each fence of a page that sets where Kafka is or how it is secured."""
    names = ("secure.md", "managed-kafka.md", "certificates.md")
    return [
        (name, text)
        for name in names
        for text in _FENCE.findall((PAGES / name).read_text(encoding="utf-8"))
        if "export MILLSTREAM_KAFKA" in text
    ]


def variables(text: str) -> dict[str, str]:
    lines = [shlex.split(line) for line in text.splitlines()]
    assert all(words[0] == "export" for words in lines)
    # What a service tells only to who has one.
    return {
        name: value.replace(":PORT", ":12691")
        for name, value in (words[1].split("=", 1) for words in lines)
    }


def with_files(given: dict[str, str], folder: Path) -> dict[str, str]:
    """Make the files that are named, in a folder of their own, and name them there."""
    authority = Authority(folder)
    key_password = "of-the-key" if "MILLSTREAM_KAFKA_SSL_KEY_PASSWORD_FILE" in given else None
    pair = authority.sign("worker", password=key_password, ends_in=timedelta(days=30))
    (folder / "secret").write_text(f"{key_password or 'a-secret'}\n", encoding="utf-8")
    (folder / "secret").chmod(0o600)
    files = {
        "MILLSTREAM_KAFKA_SSL_CA_LOCATION": authority.path,
        "MILLSTREAM_KAFKA_SSL_CERTIFICATE_LOCATION": pair.certificate,
        "MILLSTREAM_KAFKA_SSL_KEY_LOCATION": pair.key,
    }
    found = dict(given)
    for name, value in given.items():
        if name in files:
            found[name] = str(files[name])
        elif value.startswith("file:///"):
            found[name] = f"file://{folder / 'secret'}"
        elif name.endswith("_FILE"):
            found[name] = str(folder / "secret")
    return found


@pytest.mark.parametrize(("page", "text"), snippets())
def test_each_snippet_is_taken_by_the_settings(
    page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = variables(text)
    if "MILLSTREAM_KAFKA_SECURITY_PROTOCOL" not in given:
        # secure.md shows tokens alone.
        assert page == "secure.md"
        given |= {
            "MILLSTREAM_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "MILLSTREAM_KAFKA_SASL_MECHANISM": "OAUTHBEARER",
        }
    for name, value in with_files(given, tmp_path).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    security = live_security(settings)
    assert not security.is_plaintext
    assert security.warnings() == ()


def test_each_service_has_its_part() -> None:
    text = (PAGES / "managed-kafka.md").read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [part.splitlines()[0] for part in parts] == [
        *("Confluent Cloud", "Amazon MSK", "Aiven", "Redpanda", "Strimzi"),
    ]
    for part in parts:
        assert "export MILLSTREAM_KAFKA=" in part
        assert re.search(r"\(https://[^)]+\)", part), part.splitlines()[0]
