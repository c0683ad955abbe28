"""What every event has in common: a frozen model, a type, a schema version and an identity."""

from __future__ import annotations

import unicodedata
from collections.abc import Sized
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails

SequenceT = TypeVar("SequenceT", bound=Sized)

SCHEMA_VERSION = 1
"""The version of the event shapes that this program writes, and the newest it reads."""

DEFAULT_TENANT = "default"


NAME_CHARS_MAX = 256
"""Most characters of a name, once it is normalised."""

_GIVEN_CHARS_MAX = 4 * NAME_CHARS_MAX
"""Of more no NFC form is short enough: at most four characters become one."""


def normalised(value: Any) -> Any:
    """Give the NFC form of a name as it is given: two spellings of it are one.

    Before its length is checked: NFC makes up to three characters of one, as of U+FB2C, and a name
    that was let in so would be refused by whatever reads it next. What is no text, or too long
    whatever becomes of it, is given as it is, for the check to refuse.
    """
    if not isinstance(value, str) or value.isascii() or len(value) > _GIVEN_CHARS_MAX:
        return value
    return unicodedata.normalize("NFC", value)


def _name(value: Any) -> Any:
    """Give a name normalised, without what no name may hold. Raises `ValueError`."""
    if isinstance(value, str) and value.isascii() and value.isprintable():
        return value  # as most are
    name = normalised(value)
    if not isinstance(name, str) or len(name) > _GIVEN_CHARS_MAX:
        return name
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        message = "must not hold control characters or lone surrogates"
        raise ValueError(message)
    return name


Identifier = Annotated[
    str,
    StringConstraints(min_length=1, max_length=NAME_CHARS_MAX),
    BeforeValidator(_name),
]
"""A name given by people or programs: NFC, 1 to 256 characters then, no control characters."""

TenantName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A tenant: 1 to 64 of letters, digits, dot, underscore and hyphen."""

UserKey = tuple[str, str]
"""Tenant and user id: a pair, because a user id may hold the slash that would join them."""

INT64_MAX = 2**63 - 1

EPOCH_MS_MAX = 253_402_300_799_999

EpochMs = Annotated[int, Field(ge=0, le=EPOCH_MS_MAX)]
"""Milliseconds since 1970-01-01T00:00:00Z, up to the end of the year 9999."""

Count = Annotated[int, Field(ge=0, le=INT64_MAX)]
"""A number that every client's 64-bit integer holds."""

AS_COUNT = WithJsonSchema({"type": "integer", "minimum": 0, "maximum": INT64_MAX})
AS_NUMBER = WithJsonSchema({"type": "integer", "minimum": 1, "maximum": INT64_MAX})
# What was released says no more than 64 bits, and no record of ours comes near these bounds. A
# lane computes with such a number, so one beyond its bound is no event of that type.

COUNTED_MAX = 2**53 - 1
"""The last number that JSON's numbers tell from the next one; nobody counts that far."""

Ordinal = Annotated[int, Field(ge=1, le=COUNTED_MAX), AS_NUMBER]
"""The number of one of a row, from 1: a turn, a revision. The next one is `next_ordinal`."""

TRIES_MAX = 1_000_000

Tries = Annotated[int, Field(ge=0, le=TRIES_MAX), AS_COUNT]
"""How often a run tried, called or wrote something: at most a million times."""

Lasting = Annotated[int, Field(ge=0, le=EPOCH_MS_MAX), AS_COUNT]
"""How long something took, in ms: no longer than there is time."""

NAMES_MAX = 10_000


def _few(names: SequenceT) -> SequenceT:
    if len(names) > NAMES_MAX:
        message = f"must hold no more than {NAMES_MAX}"
        raise ValueError(message)
    return names


Names = Annotated[tuple[str, ...], AfterValidator(_few)]
"""Names of layers, tools or headers, up to 10,000."""

Few = AfterValidator(_few)
"""Marks what holds up to 10,000."""


def next_ordinal(number: int) -> int:
    """Give the number behind another; the last one stays the last."""
    return min(number + 1, COUNTED_MAX)


Micros = Annotated[int, Field(ge=-INT64_MAX, le=INT64_MAX)]
"""Money in millionths of a US dollar."""


def saturated(number: int) -> int:
    """Give a sum as 64 bits hold it: the largest or smallest number there is where it is beyond."""
    if -INT64_MAX <= number <= INT64_MAX:
        return number
    return INT64_MAX if number > 0 else -INT64_MAX


def words_of_problem(problem: ErrorDetails) -> str:
    """Say what is wrong with a value, in a validator's own words: pydantic puts its type first."""
    return problem["msg"].removeprefix("Value error, ")


class Frozen(BaseModel):
    """A value: compared by content, never changed. Unknown fields are ignored when read."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class FrozenDict(dict[str, str]):
    """The dict of an event: read as any other; what would change it raises `TypeError`.

    An event is one object for all that are shown it. What one of them changed would reach the
    records of others.
    """

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        message = "an event's dict is not to be changed: make one of your own, dict(…)"
        raise TypeError(message)

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = pop = popitem = clear = setdefault = _refuse

    def __copy__(self) -> FrozenDict:
        """Give itself: nothing changes it."""
        return self

    def __deepcopy__(self, _: object) -> FrozenDict:
        """Give itself: nothing changes it, nor its texts."""
        return self

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, str]]]:
        """Have pickle make it as a whole, not key by key."""
        return type(self), (dict(self),)


Metadata = Annotated[
    dict[str, Annotated[str, Field(max_length=1024)]],
    Field(max_length=32),
    AfterValidator(FrozenDict),
]
"""Up to 32 strings that an upstream wants back with the result."""


class Address(Frozen):
    """Where a record stands on Kafka."""

    topic: str
    partition: Annotated[int, Field(ge=0, le=2**31 - 1)]
    offset: Count

    def __str__(self) -> str:
        """Give `topic-partition-offset`, which is also the id derived for a record without one."""
        return f"{self.topic}-{self.partition}-{self.offset}"


class Usage(Frozen):
    """Tokens that a model read and wrote, as its provider reports them.

    The other counts are parts of these two: of `input_tokens` those read from the provider's cache,
    written to it (`cache_write_1h_tokens` of these to stay for an hour), and of audio; of
    `output_tokens` those of reasoning, and of audio.
    """

    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_tokens: Count = 0
    cache_write_tokens: Count = 0
    cache_write_1h_tokens: Count = 0
    audio_input_tokens: Count = 0
    reasoning_tokens: Count = 0
    audio_output_tokens: Count = 0

    @property
    def is_none(self) -> bool:
        """Whether nothing was read nor written."""
        return not (self.input_tokens or self.output_tokens)

    def __add__(self, other: Usage) -> Usage:
        """Add up two usages, each count at most to what 64 bits hold."""
        if other.is_none:
            return self
        if self.is_none:
            return other
        mine, others = self.__dict__, other.__dict__
        added: dict[str, Any] = {
            name: saturated(count + others[name]) for name, count in mine.items()
        }
        return Usage.model_construct(**added)


NO_USAGE = Usage()
"""Nothing read, nothing written; one for all, since a usage never changes."""


@dataclass(frozen=True, slots=True)
class CallUsage:
    """What one model call used, or so many `calls` of one model in all.

    `model` is the model's name, `None` where it is the run's own. `estimate_reason` says why the
    usage is an estimate; `None`: its provider told it.
    """

    usage: Usage
    model: str | None = None
    estimate_reason: str | None = None
    calls: Tries = 1


class Reason(Frozen):
    """Why something was refused or went wrong: a stable code for programs, words for people."""

    code: str
    message: str
    retry_after_s: float | None = None


class Event(Frozen):
    """A record's value. Concerns one user of one tenant; `at_ms` is when it was made."""

    schema_version: Annotated[int, Field(ge=1)] = SCHEMA_VERSION
    tenant: TenantName = DEFAULT_TENANT
    user_id: Identifier
    at_ms: EpochMs = 0

    title: ClassVar[str] = ""
    """One line for the generated documents."""

    @property
    def event_id(self) -> str:
        """What tells it from its user's others of its type; the same whenever it is made again."""
        raise NotImplementedError

    @property
    def partition_key(self) -> str:
        """What decides the home partition: the user, behind a tenant that is not the default."""
        return partition_key(self.tenant, self.user_id)

    @property
    def record_key(self) -> str:
        """The record's key; events on topics compacted by something finer override it."""
        return self.partition_key


def compound_key(*names: str) -> str:
    """Give a record's key of several names; the separator can stand in none of them."""
    return "\x1f".join(names)


def partition_key(tenant: str, user_id: str) -> str:
    """Give the text whose murmur2 decides a user's home partition.

    An upstream that keys its records by the plain user id is right for the default tenant.
    """
    return user_id if tenant == DEFAULT_TENANT else f"{tenant}/{user_id}"


def require_one_target(request_id: str | None, session_id: str | None) -> None:
    """Raise `ValueError` unless one of the two is named."""
    if (request_id is None) == (session_id is None):
        message = "name either request_id or session_id"
        raise ValueError(message)
