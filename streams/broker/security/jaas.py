"""What `sasl.jaas.config` says: Java's way to give a user and a password, or a client's id."""

from __future__ import annotations

import re

from millstream.schemas.errors import Misconfigured

__all__ = ["parse_jaas"]

_LINE = re.compile(
    r"\s*([\w.$]+)\s+(required|requisite|sufficient|optional)\b(.*?);?\s*",
    re.DOTALL | re.IGNORECASE,
)
_OPTION = re.compile(r"""\s*([\w.]+)\s*=\s*("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\s;"']+)""")
_KINDS = {
    "PlainLoginModule": {"username": "sasl.username", "password": "sasl.password"},
    "ScramLoginModule": {"username": "sasl.username", "password": "sasl.password"},
    "OAuthBearerLoginModule": {
        "clientId": "sasl.oauthbearer.client.id",
        "clientSecret": "sasl.oauthbearer.client.secret",
        "scope": "sasl.oauthbearer.scope",
    },
}
_EXTENSION = "extension_"
_ESCAPE = re.compile(r"\\([0-3][0-7]{2}|[0-7]{1,2}|.)", re.DOTALL)
_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
"""Escapes of Java's `StreamTokenizer`, by which Kafka reads it."""


def parse_jaas(text: str, *, named: str) -> dict[str, str]:
    """Give the properties of librdkafka's that it stands for.

    Raises `Misconfigured`, without a word of the text: it holds a password.
    """
    line = _LINE.fullmatch(text)
    module = "" if line is None else line[1].rpartition(".")[2]
    if line is None or module not in _KINDS:
        kinds = ", ".join(_KINDS)
        message = f'{named} is read for {kinds}: `MODULE required name="value" …;`'
        raise Misconfigured(message)
    known, found, extensions = _KINDS[module], dict[str, str](), list[str]()
    at = 0
    while (option := _OPTION.match(line[3], at)) is not None:
        at = option.end()
        name, value = option[1], _plain(option[2])
        if name in known:
            found[known[name]] = value
        elif module == "OAuthBearerLoginModule" and name.startswith(_EXTENSION):
            extensions.append(f"{name.removeprefix(_EXTENSION)}={value}")
        elif name not in {"tokenauth", "serviceName", "metadata"}:
            raise Misconfigured(f"{named}: there is no option {name} of {module} that is read")
    if line[3][at:].strip():
        raise Misconfigured(f"{named}: what stands behind option {len(found)} cannot be read")
    if extensions:
        found["sasl.oauthbearer.extensions"] = ",".join(extensions)
    return found


def _plain(quoted: str) -> str:
    if quoted[0] not in "\"'":
        return quoted
    return _ESCAPE.sub(_unescaped, quoted[1:-1])


def _unescaped(found: re.Match[str]) -> str:
    escape = found[1]
    return (
        chr(int(escape, 8)) if escape.isdigit() and escape < "8" else _LETTERS.get(escape, escape)
    )
