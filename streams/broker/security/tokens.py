"""Tokens of OAUTHBEARER: from a file, or from an endpoint for a client's credentials (RFC 6749).

A token is kept until shortly before it expires; one of a file is read anew for each connection.
"""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.certificates import TlsFiles, context_of
from millstream.streams.broker.security.given import read_secret
from millstream.streams.broker.security.kafka_security import TokenSource
from millstream.streams.broker.security.refusals import AccessRefused

__all__ = ["Tokens"]

_ANSWER_S = 4.0
_KEPT_SHARE = 0.8
"""A token is used for so much of its time; Java's client renews at the same share."""

_LIFETIME_S = 300.0
"""Of a token that does not say how long it holds."""

_ANSWER_BYTES_MAX = 262_144
_OK = 200


@dataclass(frozen=True, slots=True)
class _Kept:
    source: TokenSource
    token: str
    until_s: float


class Tokens:
    """Gives tokens; connections that are made at the same time share one."""

    def __init__(self, *, clock_s: Callable[[], float] = time.time) -> None:
        self._clock_s = clock_s
        self._kept: _Kept | None = None
        self._asking = asyncio.Lock()

    def forget(self) -> None:
        """Ask anew next time: a broker did not take the one that is kept."""
        self._kept = None

    async def token(self, source: TokenSource) -> str:
        """Give a token. Raises `AccessRefused` or `Misconfigured`; neither shows a secret."""
        if (file := source.file) is not None:
            token = read_secret(file, named=source.url.named)
            ends_at_s = _expiry(token)
            if ends_at_s is not None and ends_at_s <= self._clock_s():
                raise AccessRefused(
                    f"the token in {file} expired {self._clock_s() - ends_at_s:.0f} s ago: have it "
                    "renewed"
                )
            return token
        async with self._asking:
            kept = self._kept
            if kept is None or kept.source != source or kept.until_s <= self._clock_s():
                kept = self._kept = await self._ask(source)
            return kept.token

    async def _ask(self, source: TokenSource) -> _Kept:
        url = source.url.value
        import aiohttp  # noqa: PLC0415  half of what a command imports, for those who use tokens

        if source.client_id is None or source.client_secret is None:
            raise Misconfigured(f"{source.url.named} needs a client's id and secret")
        form = {"grant_type": "client_credentials"}
        if source.scope is not None:
            form["scope"] = source.scope.value
        # As Java's client sends them: not encoded as in a form, which the standard asks for.
        user = b64encode(f"{source.client_id.value}:{source.client_secret.value}".encode()).decode()
        headers = {"Authorization": f"Basic {user}", "Accept": "application/json"}
        authorities = TlsFiles(authorities=source.authorities)
        now_s = self._clock_s()
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_ANSWER_S)) as session,
                session.post(
                    url,
                    data=form,
                    headers=headers,
                    ssl=context_of(authorities),
                    allow_redirects=False,
                ) as response,
            ):
                body, status = await response.content.read(_ANSWER_BYTES_MAX), response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise AccessRefused(f"{source.url.named}: no token came ({reason})") from None
        answer = _read(body)
        token = answer.get("access_token")
        if status != _OK or not isinstance(token, str):
            why = str(answer.get("error") or f"status {status}")
            raise AccessRefused(
                f"{source.url.named} gives no token: {why}; check {source.client_id.named} and "
                f"{source.client_secret.named}"
            )
        told = answer.get("expires_in")
        expires_in_s = float(told) if isinstance(told, int | float) and told > 0 else _LIFETIME_S
        return _Kept(source, token, now_s + _KEPT_SHARE * expires_in_s)


def _read(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _expiry(token: str) -> float | None:
    """Give when a JWT expires, in seconds since the epoch; `None` for a token that is none."""
    parts = token.split(".")
    try:
        claims = _read(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (IndexError, ValueError):
        return None
    found = claims.get("exp")
    return float(found) if isinstance(found, int | float) else None
