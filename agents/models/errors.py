"""What a provider's client raised, in the types by which a run's fate is decided.

LangChain hands the errors of each provider's own package on as they are. They have in common the
HTTP status of an answer, or what broke the connection as their cause; no package has to be there.
"""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

import aiohttp

from millstream.schemas.errors import MillstreamError, ModelFailed, ModelUnavailable, Terminal

__all__ = ["as_foreseen", "status_of"]

# Besides all from 500 on. Source: RFC 9110, RFC 6585, RFC 8470.
_PASSING: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
_NOT_LET_IN: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_CAUSES_MAX: Final = 8
_BROKEN: Final = (aiohttp.ClientError, OSError)
# httpx is there under more than one name, and the providers' packages are there or not.
_BROKEN_NAMES: Final = frozenset({"APIConnectionError", "TransportError"})


def status_of(error: BaseException) -> int | None:
    """Give the HTTP status that a provider answered with; `None` if it gave no answer."""
    for told in (error, getattr(error, "response", None)):
        status = getattr(told, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def as_foreseen(error: BaseException) -> MillstreamError | None:
    """Give the error of ours that says what a model call's failure means, `None` if none does.

    `ModelFailed`, which may be tried again, for an overloaded or failing provider and a broken
    connection; `ModelUnavailable` for a key that is not let in; `Terminal` for what the provider
    refuses.
    """
    if isinstance(error, MillstreamError):
        return error
    status = status_of(error)
    if status is None:
        if not any(_is_broken(each) for each in _causes(error)):
            return None
        return ModelFailed(f"the model's provider could not be reached: {error}")
    if status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ModelFailed(f"the model's provider answered with status {status}: {error}")
    if status in _NOT_LET_IN:
        return ModelUnavailable(f"the model's provider refused the key (status {status}): {error}")
    return Terminal(f"the model's provider refused the call (status {status}): {error}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an error and those that it was raised from: clients wrap what broke more than once."""
    cause: BaseException | None = error
    for _ in range(_CAUSES_MAX):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__


def _is_broken(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, _BROKEN) or not names.isdisjoint(_BROKEN_NAMES)
