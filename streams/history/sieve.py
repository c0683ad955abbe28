"""Which records cannot be asked for, told by their bytes: they are passed over unparsed.

A name in JSON stands between quotes, as it is or escaped. So a record of whose value neither can be
found is not of that user, session or request. That is exact, whoever wrote the record and under
whatever key, and where it cannot be told the record is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.topics import REQUESTS, TopicSpec
from millstream.streams.bus.api import EventFilter
from millstream.streams.wire.records import LogRecord

__all__ = ["Sieve", "sieve_of"]

Sieve = Callable[[Sequence[LogRecord]], Sequence[LogRecord]]
"""Gives those of some records that may be asked for, in their order."""

_PLAIN = re.compile(r"[ !#-\[\]-~]+")
"""Printable ASCII that no writer of JSON has to escape."""

_ANY_ESCAPE = b"\\u"
_OTHER_FORMS = {"/": b"\\/", "K": "\u212a".encode(), ";": "\u037e".encode(), "`": "\u1fef".encode()}
"""What else becomes a character: its own escape, and the letters whose normal form (NFC) it is."""


def sieve_of(spec: TopicSpec, topic: str, wanted: EventFilter) -> Sieve | None:
    """Give the sieve of a topic, by its physical name; `None` if any record may be asked for."""
    if spec.event is DeadLetter:
        return None  # what its record names stands in it in base64
    ids = [one for one in (wanted.request_id, wanted.session_id) if one is not None]
    if spec.name == REQUESTS.name:
        # A request without an id has its address for one, which stands nowhere in it.
        ids = [one for one in ids if not re.fullmatch(rf"{re.escape(topic)}-\d+-\d+", one)]
    by_id = [names for names in map(_names, ids) if names]
    user = _user_names(spec, wanted)
    user_key = wanted.user_key
    of_user = None
    if user and user_key is not None:
        of_user = _by_key_or_value(user_key.encode(), user)
    if not by_id or of_user is None:
        return _by_values(tuple(by_id)) or of_user
    by_ids = _by_values(tuple(by_id))
    return of_user if by_ids is None else lambda records: of_user(by_ids(records))


def _names(name: str) -> tuple[bytes, ...]:
    """Give what is in every value that has this name; nothing if that cannot be told."""
    if not _PLAIN.fullmatch(name):
        return ()
    others = (form for character, form in _OTHER_FORMS.items() if character in name)
    return (f'"{name}"'.encode(), _ANY_ESCAPE, *others)


def _user_names(spec: TopicSpec, wanted: EventFilter) -> tuple[bytes, ...]:
    # Of some events the user may be left out.
    if wanted.user_id is None or spec.event.model_fields["user_id"].default == wanted.user_id:
        return ()
    return _names(wanted.user_id)


def _by_values(names: tuple[tuple[bytes, ...], ...]) -> Sieve | None:
    if not names:
        return None
    if len(names) == 1:
        return lambda records: [one for one in records if _has(one.value, names[0])]
    return lambda records: [one for one in records if all(_has(one.value, some) for some in names)]


def _by_key_or_value(key: bytes, names: tuple[bytes, ...]) -> Sieve:
    # A record that cannot be read is the user's if its key is.
    return lambda records: [one for one in records if one.key == key or _has(one.value, names)]


def _has(value: bytes | None, names: tuple[bytes, ...]) -> bool:
    if not value:
        return False
    for name in names:  # noqa: SIM110  a generator would cost more than what it asks
        if name in value:
            return True
    return False
