"""Tokens of OAUTHBEARER: from a file, or from an endpoint for a client's credentials (RFC 6749).

A token is kept until shortly before it expires; one of a file is read anew for each connection.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote_plus

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

_LIFETIME_MAX_S = 1e12
_AGAIN_S = 10.0
"""So long after an endpoint gave no token it is asked again, while another one holds."""

_ANSWER_BYTES_MAX = 262_144
_PART_BYTES = 16_384
_OK = 200
_REFUSES_CLIENT = frozenset({400, 401, 403})

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kept:
    source: TokenSource
    token: str = field(repr=False)
    until_s: float
    ends_at_s: float


class Tokens:
    """Gives tokens; connections that are made at the same time share one."""

    def __init__(self, *, clock_s: Callable[[], float] = time.time) -> None:
        self._clock_s = clock_s
        self._kept: _Kept | None = None
        self._asking: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    def forget(self) -> None:
        """Ask anew next time: a broker did not take the one that is kept."""
        self._kept = None

    async def token(self, source: TokenSource) -> str:
        """Give a token. Raises `AccessRefused` or `Misconfigured`; neither shows a secret."""
        if (file := source.file) is not None:
            token = read_secret(file, named=source.url.named)
            if not _is_token(token):
                raise Misconfigured(f"{source.url.named}: {file} holds no token")
            return token
        async with self._lock():
            kept = self._kept
            if kept is not None and kept.source != source:
                kept = None
            if kept is None or kept.until_s <= self._clock_s():
                kept = self._kept = await self._renewed(source, kept)
            return kept.token

    def _lock(self) -> asyncio.Lock:
        """Give this event loop's: a process may run one after the other."""
        loop = asyncio.get_running_loop()
        if self._asking is None or self._asking[0] is not loop:
            self._asking = loop, asyncio.Lock()
        return self._asking[1]

    def told_of_expiry(self, token: str) -> str:
        """Say of a token that a broker refuses whether it has expired, by this machine's clock.

        It is for brokers to decide: their clocks may not be ours.
        """
        ends_at_s = _expiry(token)
        if ends_at_s is None or ends_at_s > self._clock_s():
            return ""
        return f", which expired {self._clock_s() - ends_at_s:.0f} s ago: have it renewed"

    async def _renewed(self, source: TokenSource, kept: _Kept | None) -> _Kept:
        """Ask for a token; while none comes, one that is kept and still holds is used further."""
        try:
            return await self._ask(source)
        except AccessRefused as error:
            if kept is None or kept.ends_at_s <= self._clock_s():
                raise
            log.warning("the token at hand is used for as long as it holds: %s", error)
            again_at_s = min(self._clock_s() + _AGAIN_S, kept.ends_at_s)
            return replace(kept, until_s=again_at_s)

    async def _ask(self, source: TokenSource) -> _Kept:
        url = source.url.value
        import aiohttp  # noqa: PLC0415  half of what a command imports, for those who use tokens

        if source.client_id is None or source.client_secret is None:
            raise Misconfigured(f"{source.url.named} needs a client's id and secret")
        form = {"grant_type": "client_credentials"}
        if source.scope is not None:
            form["scope"] = source.scope.value
        client = source.client_id.value, source.client_secret.value
        if source.encodes_client:
            client = quote_plus(client[0]), quote_plus(client[1])
        # As Java's client sends them: not encoded as in a form, which the standard asks for.
        user = b64encode(":".join(client).encode()).decode()
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
                status, body = response.status, b""
                # It comes in parts: a token may be longer than what is sent at a time.
                async for part in response.content.iter_chunked(_PART_BYTES):
                    if len(body := body + part) > _ANSWER_BYTES_MAX:
                        break
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            # A wrong URL is shown by its error, which may hold a secret.
            is_of_url = isinstance(error, ValueError)
            reason = "it is no URL" if is_of_url else str(error) or type(error).__name__
            raise AccessRefused(f"{source.url.named}: no token came ({reason})") from None
        answer = _read(body)
        token = answer.get("access_token")
        if status != _OK or not isinstance(token, str) or not _is_token(token):
            why = str(answer.get("error") or f"status {status}")
            raise AccessRefused(
                f"{source.url.named} gives no token: {why}; check {source.client_id.named} and "
                f"{source.client_secret.named}",
                of_user=status in _REFUSES_CLIENT,
            )
        lasts_s = _lifetime(answer.get("expires_in"), token)
        return _Kept(source, token, now_s + _KEPT_SHARE * lasts_s, now_s + lasts_s)


def _read(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _is_token(text: str) -> bool:
    """Tell whether it can be sent: nothing but visible ASCII (RFC 6750, 2.1)."""
    return text != "" and all("!" <= sign <= "~" for sign in text)


def _lifetime(expires_in: object, token: str) -> float:
    """Give for how many seconds a new token holds; some say so as text, some in the token alone."""
    try:
        told_s = float(str(expires_in))
    except ValueError:
        told_s = 0.0
    if 0 < told_s < _LIFETIME_MAX_S and not isinstance(expires_in, bool):
        return told_s
    claims = _claims(token)
    ends_at_s, begun_at_s = _number(claims.get("exp")), _number(claims.get("iat"))
    # Both are by the clock of who issues it.
    if ends_at_s is None or begun_at_s is None or ends_at_s <= begun_at_s:
        return _LIFETIME_S
    return min(ends_at_s - begun_at_s, _LIFETIME_MAX_S)


def _expiry(token: str) -> float | None:
    """Give when a JWT expires, in seconds since the epoch; `None` for a token that is none."""
    return _number(_claims(token).get("exp"))


def _claims(token: str) -> dict[str, Any]:
    parts = token.split(".")
    try:
        return _read(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (IndexError, ValueError):
        return {}


def _number(claim: object) -> float | None:
    is_number = isinstance(claim, int | float) and not isinstance(claim, bool)
    return float(claim) if is_number and abs(claim) < _LIFETIME_MAX_S else None  # type: ignore[arg-type]
