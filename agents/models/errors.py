"""What a provider's client raised, in the types by which a run's fate is decided.

LangChain hands the errors of each provider's own package on as they are. They have in common the
HTTP status of an answer, the error object of its body, or what broke the connection as their cause;
no package has to be there. Names count first, then the status; words only where a provider says a
thing in no other way, and only here, by `dialects/refusal_words.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from millstream.agents.models.dialects.refusal_words import (
    BAD_REQUEST,
    CONTENT,
    CONTENT_WORDS,
    CONTEXT,
    CONTEXT_WORDS,
    KEY,
    MODEL,
    QUOTA,
    QUOTA_WORDS,
)
from millstream.agents.models.redaction import redacted
from millstream.agents.models.retry_after import (
    duration_s,
    retry_after_s,
    told_wait_s,
)
from millstream.schemas.errors import MillstreamError, ModelFailed, Terminal
from millstream.schemas.reasons import words_of
from millstream.schemas.runs.errors import (
    AnswerCut,
    ContentRefused,
    InputTooLong,
    ModelUnavailable,
    QuotaExhausted,
)

__all__ = [
    "as_foreseen",
    "ended_by_provider",
    "error_in",
    "error_said",
    "refuses_older_limit",
    "refuses_stream_options",
    "status_of",
    "was_refused",
]

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
_ANSWERS: Final = range(100, 600)
_STATUSES: Final = range(HTTPStatus.BAD_REQUEST, 600)
_FAILING: Final = range(HTTPStatus.INTERNAL_SERVER_ERROR, 600)
_CAUSES_MAX: Final = 8
_BROKEN: Final = (aiohttp.ClientError, OSError)
# httpx is there under more than one name, and the providers' packages are there or not.
_BROKEN_NAMES: Final = frozenset({"APIConnectionError", "TransportError"})
# What httpx, aiohttp and the system raise where no connection came about.
_NEVER_SENT_NAMES: Final = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "ClientConnectorError"}
    | {"ConnectionTimeoutError", "ClientProxyConnectionError"}
    | {"ConnectionRefusedError", "gaierror"}
)
_UNREADABLE_NAMES: Final = frozenset({"APIResponseValidationError", "JSONDecodeError"})

_SAID: Final = re.compile(r"(?P<code>[a-z]+(_[a-z]+)+): |ResponseError\(code='(?P<field>[a-z_]+)'")
# How long to wait: OpenAI and Groq ("Please try again in 1m26.4s."), Azure ("retry after 26
# seconds"), Gemini ("Please retry in 36.4s."). They say when to ask again, never whether.
_WAIT_WORDS: Final = re.compile(
    r"(?:try again|retry)(?: in| after)?\s+((?:\d+(?:\.\d+)?\s*[a-z]+\s*){1,4})", re.IGNORECASE
)
_WORDS_READ_CHARS: Final = 4_096
# Of Gemini's quotas, by `quotaId`: those of a day are used up until the next.
_QUOTA_OF_A_DAY: Final = "perday"
_DETAILS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class _Told:
    """What a provider said of an error: its status, the names that it gave to it, its words."""

    status: int | None
    names: frozenset[str]
    words: str
    retry_after_s: float | None = None


def status_of(error: BaseException) -> int | None:
    """Give the HTTP status that a provider answered with; `None` if it gave no answer."""
    for each in _tellers(error):
        if isinstance(each.__cause__, HttpProcessingError):
            continue  # aiohttp gives an answer that is no HTTP the code 400
        for told in (each, getattr(each, "response", None)):
            for attribute in ("status_code", "code"):
                status = getattr(told, attribute, None)
                # Of Google's client, `code`; OpenAI's has a string there, and Ollama's -1 for an
                # error that was told inside a stream.
                if isinstance(status, int) and status in _ANSWERS:
                    return int(status)
    return None


def was_refused(error: BaseException) -> bool:
    """Tell whether a call was refused by its provider, or never sent: it costs nothing.

    A call that was cut off, or whose connection or answer broke, may be charged for all the same.
    """
    if isinstance(error, ModelFailed) and error.may_cost:
        return False
    if isinstance(error, MillstreamError) or status_of(error) is not None:
        return True
    # Told inside a stream: the client has an error object, but no status.
    if isinstance(_body_of(error), (Mapping, str)):
        return True
    return _never_sent(error)


def ended_by_provider(error: BaseException) -> bool:
    """Tell whether a call that failed is known to be over at its provider.

    It told an error, or ended the answer itself. Not so where the connection broke, the call was
    cut off, or a piece of the answer cannot be read: what its model writes unseen may go on to the
    call's limit.
    """
    if isinstance(error, ModelFailed) and error.is_over:
        return True
    return was_refused(error)


def refuses_stream_options(error: BaseException) -> bool:
    """Tell whether a server refused a call since it was asked for the usage of its stream.

    Some that speak OpenAI's dialect do not know `stream_options`, and name it in their refusal:
    agno's pull request 1088 (Azure), langchainjs' issue 11637.
    """
    said = _said_of_request(error)
    return any(words in said for words in ("stream_options", "include_usage"))


def refuses_older_limit(error: BaseException) -> bool:
    """Tell whether a server refused a call since its limit's name is `max_tokens`.

    OpenAI's newer models do, under whatever name a deployment has (Pulse's pull request 1867).
    """
    said = _said_of_request(error)
    return "max_tokens" in said and "max_completion_tokens" in said


def _said_of_request(error: BaseException) -> str:
    """Give what a server says of a request that it takes for a bad one, nothing for any other."""
    refused = status_of(error) in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}
    return f"{words_of(error)} {_body_of(error)}" if refused else ""


def as_foreseen(error: BaseException) -> MillstreamError | None:
    """Give the error of ours that says what a model call's failure means, `None` if none does.

    `ModelFailed`, which may be tried again, for an overloaded or failing provider and a broken
    connection; `QuotaExhausted`, `ModelUnavailable` (a key that is not let in), `InputTooLong`,
    `ContentRefused` and, for anything else that the provider refuses, `Terminal`.
    """
    if isinstance(error, MillstreamError):
        return error
    told = _told(error)
    return _told_without_words(error) if told is None else _meant(told)


def _told_without_words(error: BaseException) -> MillstreamError | None:
    kinds = _names(error)
    if "LengthFinishReasonError" in kinds:
        why = "the model's answer was cut at its limit of tokens"
        return AnswerCut(why)
    if "ContentFilterFinishReasonError" in kinds:
        why = "the model's provider filtered the answer"
        return ContentRefused(why)
    if any(_is_broken(each) for each in _causes(error)):
        said = redacted(words_of(error)) or type(error).__name__
        if _never_sent(error):
            return ModelFailed(f"the model's provider could not be reached: {said}")
        why = f"the connection to the model's provider broke: {said}"
        return ModelFailed(why, may_cost=True)
    if not kinds.isdisjoint(_UNREADABLE_NAMES):
        why = f"the model's provider sent what its client cannot read: {redacted(words_of(error))}"
        return ModelFailed(why, may_cost=True)
    return None


def error_in(body: object) -> MillstreamError | None:
    """Give the error that a body or a stream's chunk of status 200 tells of, `None` if none.

    It is told as `{"error": …}`, as an object of the type `error` (vLLM), or by fields beside
    choices of `null` (DeepInfra).
    """
    if not isinstance(body, Mapping):
        return None
    error = body.get("error")
    if not error and not body.get("choices"):
        is_error = body.get("object") == "error" or body.get("type") == "error"
        if is_error or body.get("error_message") or body.get("error_type"):
            error = body
    return _meant(_told_by(error, None)) if error else None


def error_said(words: str) -> MillstreamError | None:
    """Give the error that LangChain tells of in words, having read it in OpenAI's responses.

    It raises `ValueError("CODE: MESSAGE")` for an event `error`, and `ValueError("ResponseError(
    code='CODE', message='MESSAGE')")` for a response that failed; `None` for any other words.
    """
    said = _SAID.match(words)
    if said is None:
        return None
    code = said["code"] or said["field"]
    return _meant(_Told(None, frozenset({code}), words, _worded_wait_s(words)))


def _told(error: BaseException) -> _Told | None:
    status, body = status_of(error), _body_of(error)
    if status is None and not isinstance(body, (Mapping, str)):
        return None
    told = _told_by(body, status)
    limited = status == HTTPStatus.TOO_MANY_REQUESTS
    waits = [_wait_in_headers_s(each, limited=limited) for each in _causes(error)]
    waits.append(told.retry_after_s)
    words = words_of(error) or told.words
    # OpenAI's client says of a body its `error.message` alone, and nothing of one without.
    if told.words == str(body) and told.words not in words and not told.words.startswith("<"):
        words = f"{words} - {told.words[:_WORDS_READ_CHARS]}"
    return _Told(
        told.status,
        told.names | ({"context_length_exceeded"} if _overflowed(error) else set()),
        words,
        next((wait for wait in waits if wait is not None), None),
    )


def _body_of(error: BaseException) -> object:
    """Give the body that a client's error holds: OpenAI's and Anthropic's, Google's, Ollama's."""
    for each in _tellers(error):
        for name in ("body", "details"):
            body = getattr(each, name, None)
            if isinstance(body, (Mapping, str, list)):
                return body[0] if isinstance(body, list) and len(body) == 1 else body
        if "ResponseError" in _names(each):
            return getattr(each, "error", None)
    return None


def _wait_in_headers_s(error: BaseException, *, limited: bool) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None)
    return None if headers is None else retry_after_s(headers, limited=limited)


def _worded_wait_s(words: str) -> float | None:
    said = _WAIT_WORDS.search(words[:_WORDS_READ_CHARS])
    return None if said is None else duration_s(said[1])


def _told_by(body: object, status: int | None) -> _Told:
    fields = body if isinstance(body, Mapping) else {}
    if isinstance(fields.get("error"), Mapping):
        fields = fields["error"]  # Anthropic's and Google's bodies come with their envelope
    inner = fields.get("innererror")
    values: list[Any] = [fields.get(name) for name in ("type", "code", "status", "error_type")]
    values += [inner.get("code")] if isinstance(inner, Mapping) else []
    values += _reasons_in(fields.get("details"))
    numbers = [int(each) for each in values if str(each).isdecimal()]
    if status is None or status == HTTPStatus.OK:
        status = next((each for each in numbers if each in _STATUSES), None)
    words = str(fields.get("message") or fields.get("error_message") or body)
    names = frozenset(each.lower() for each in values if isinstance(each, str))
    wait_s = told_wait_s(body)
    return _Told(status, names, words, _worded_wait_s(words) if wait_s is None else wait_s)


def _reasons_in(details: object) -> list[str]:
    """Give the reasons among the details of Google's errors, `ErrorInfo` and `QuotaFailure`."""
    reasons: list[str] = []
    for each in details[:_DETAILS_MAX] if isinstance(details, list) else ():
        if not isinstance(each, Mapping):
            continue
        if isinstance(each.get("reason"), str):
            reasons.append(each["reason"])
        violations = each.get("violations")
        for one in violations[:_DETAILS_MAX] if isinstance(violations, list) else ():
            quota = one.get("quotaId") if isinstance(one, Mapping) else None
            if isinstance(quota, str) and _QUOTA_OF_A_DAY in quota.lower():
                reasons.append("insufficient_quota")
    return reasons


def _overflowed(error: BaseException) -> bool:
    # LangChain's packages find it out themselves, each in its own way.
    return any("ContextOverflow" in kind.__name__ for kind in type(error).__mro__)


def _meant(told: _Told) -> MillstreamError:
    status, words = told.status, redacted(told.words)
    by = f" (status {status})" if status else ""
    if (refused := _refused_for(told)) is not None:
        kind, why = refused
        return kind(f"{why}{by}: {words}")
    with_status = f" with status {status}" if status else " with an error"
    wait_s = told.retry_after_s
    asks = f" (it asks to wait {wait_s:g} s)" if wait_s else ""
    return ModelFailed(
        f"the model's provider answered{with_status}: {words}{asks}", retry_after_s=wait_s
    )


def _refused_for(told: _Told) -> tuple[type[MillstreamError], str] | None:
    """Give what a refusal means that stays, `None` for one that passes."""
    status, names, said = told.status, told.names, told.words.lower()
    refused = status in _STATUSES and status not in _PASSING and status not in _FAILING
    kinds = (
        (
            names & QUOTA or status == HTTPStatus.PAYMENT_REQUIRED or _has(said, QUOTA_WORDS),
            (QuotaExhausted, "the quota at the model's provider is used up"),
        ),
        (
            names & CONTENT or _has(said, CONTENT_WORDS),
            (ContentRefused, "the model's provider refused the content"),
        ),
        (
            names & CONTEXT
            or status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            or _has(said, CONTEXT_WORDS),
            (InputTooLong, "the conversation does not fit the model's context"),
        ),
        (
            status in _NOT_LET_IN or names & KEY,
            (ModelUnavailable, "the model's provider refused the key"),
        ),
        (
            status == HTTPStatus.NOT_FOUND or names & MODEL,
            (ModelUnavailable, "the model's provider knows no such model"),
        ),
        (
            refused or (status is None and names & BAD_REQUEST),
            (Terminal, "the model's provider refused the call"),
        ),
    )
    return next((meant for holds, meant in kinds if holds), None)


def _has(said: str, words: tuple[str, ...]) -> bool:
    return any(each in said for each in words)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an error and those that it was raised from: clients wrap what broke more than once."""
    cause: BaseException | None = error
    for _ in range(_CAUSES_MAX):
        if cause is None:
            return
        yield cause
        # Ollama's client leaves out what its error comes from, and with it the headers.
        hidden = cause.__context__ if "ResponseError" in _names(cause) else None
        cause = cause.__cause__ or hidden


def _tellers(error: BaseException) -> Iterator[BaseException]:
    """Give the errors by which a provider answered: LangChain raises words from some of Google's.

    Other causes tell of the connection: aiohttp gives a broken body the code 400.
    """
    yield error
    for each in _causes(error.__cause__) if error.__cause__ is not None else ():
        if hasattr(each, "details"):
            yield each


def _is_broken(error: BaseException) -> bool:
    return isinstance(error, _BROKEN) or not _names(error).isdisjoint(_BROKEN_NAMES)


def _never_sent(error: BaseException) -> bool:
    return any(not _NEVER_SENT_NAMES.isdisjoint(_names(each)) for each in _causes(error))


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
