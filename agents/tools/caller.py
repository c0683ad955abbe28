"""Who asks: what a tool and a middleware are told of the request that they work for."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

__all__ = ["NO_CLAIMS", "Caller", "idempotency_key"]

NO_CLAIMS: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The request that an agent answers, as LangChain's `Runtime` and `ToolRuntime` carry it.

    A tool takes it by a parameter `runtime: ToolRuntime[Caller]`, as `runtime.context`. The model
    is shown nothing of it, and cannot set it.

    Attributes:
        tenant: The user's tenant.
        user_id: The user who asks, in the tenant.
        claims: What the user's credential says. Empty: no credential is verified yet.
        request_id: The request, of this user.
        session_id: The conversation, of this user.
        attempt: The attempt at the request; a higher one supersedes it.
        deadline_ms: When the attempt is over at the latest, in milliseconds since the epoch.
        metadata: What the upstream sent along with the request.
        session_metadata: What was said of the session as it was created or changed, as it is when
            the attempt begins.
        template: The name of the agent's template.
        model: The name of the model that answers.
        idempotency_key: Names this tool call, over all attempts: 32 hex digits. `None` outside
            a tool call.
        called_at_ms: When the tool was called, in milliseconds since the epoch: of a call with an
            effect the same in each attempt at it. `None` outside a tool call.
    """

    tenant: str
    user_id: str
    request_id: str
    session_id: str
    attempt: int
    deadline_ms: int
    template: str
    model: str
    claims: Mapping[str, Any] = field(default_factory=lambda: NO_CLAIMS)
    metadata: Mapping[str, str] = field(default_factory=lambda: NO_CLAIMS)
    session_metadata: Mapping[str, str] = field(default_factory=lambda: NO_CLAIMS)
    idempotency_key: str | None = None
    called_at_ms: int | None = None

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        """Have LangChain, which checks what it gives to a tool, hand it on as it is."""
        as_it_is = core_schema.plain_serializer_function_ser_schema(lambda caller: caller)
        return core_schema.is_instance_schema(cls, serialization=as_it_is)

    @property
    def remaining_s(self) -> float:
        """The seconds until `deadline_ms` by this machine's clock, 0 once it passed."""
        return max(0.0, self.deadline_ms / 1000 - time.time())

    def new_id(self, name: str = "") -> str:
        """Give an id, of 32 hex digits, that is the same in each attempt at this tool call.

        Another one for each `name`; so a call that is made again makes nothing under another id.
        Raises `RuntimeError` outside a tool call.
        """
        return blake2b(self._named(name, b"id"), digest_size=16).hexdigest()

    def random(self, name: str = "") -> random.Random:
        """Give a source of numbers that gives the same ones in each attempt at this tool call.

        Another one for each `name`. Not for secrets. Raises `RuntimeError` outside a tool call.
        """
        return random.Random(self._named(name, b"random"))  # noqa: S311  not for secrets

    def _named(self, name: str, kind: bytes) -> bytes:
        if self.idempotency_key is None:
            message = "only a tool call has ids and random numbers of its own"
            raise RuntimeError(message)
        return b"\0".join(
            (kind, self.idempotency_key.encode(), name.encode(errors="surrogatepass"))
        )


def idempotency_key(caller: Caller, call_id: str) -> str:
    """Give the key of a tool call: of its run and its id in it, so any attempt gives the same.

    The id of a call is unique in its run: one that a provider gives a second time is given another
    (`agents/loop/answers.py`).
    """
    named = (caller.tenant, caller.user_id, caller.request_id, call_id)
    # A length before each: no name can look like two.
    text = "".join(f"{len(one)}:{one}" for one in named)
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
