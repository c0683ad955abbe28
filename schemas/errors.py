"""The errors of Millstream, one tree; an error's type alone decides what happens next.

    MillstreamError
    ├── Terminal                 the run ends now: trying again cannot help
    │   ├── Rejected             refused before it started; ends as a `rejected` result
    │   │   ├── Forbidden
    │   │   ├── RateLimited      (retry_after_s)
    │   │   ├── BudgetExceeded   (retry_after_s, where another day helps)
    │   │   ├── ModelUnpriced    under a cap on spend, a model without a known price
    │   │   ├── UnknownTemplate
    │   │   ├── PromptVariableRefused  metadata that the template's prompt needs
    │   │   ├── LayerFailed      a layer of the chain raised; nobody has judged the request
    │   │   └── InputTooLarge
    │   ├── Expired              its deadline passed; ends as an `expired` result
    │   ├── ModelUnavailable     no such model, package or key; says what to install or set
    │   ├── InputTooLong         the conversation does not fit the model's context
    │   ├── ContentUnsupported   the model takes no images, or whatever else the request holds
    │   ├── QuotaExhausted       the account at the model's provider may spend no more
    │   ├── ContentRefused       the model's provider refused the question or the answer
    │   ├── AnswerCut            the answer reached its limit of tokens, and counts only whole
    │   ├── ModelCallsExhausted  the agent did not end within its template's model calls
    │   ├── AttemptsExhausted    begun as often as one owner of a partition may
    │   ├── RequestTimedOut      its attempts and the waits between them took too long
    │   ├── ToolCallCut          the model's answer broke off inside a call, at its limit of tokens
    │   ├── ToolFailed           a tool whose errors end the run raised one
    │   ├── ToolStuck            a tool did not end in time, and goes on
    │   ├── InDoubt              whether a call with an effect was made is not known
    │   ├── InterruptUnsupported the agent asked for a person, which is not built yet
    │   └── CheckpointUnreadable the session's checkpoint cannot be opened
    ├── Retryable                the same call may succeed later
    │   ├── ModelFailed          (retry_after_s, where the provider says)
    │   ├── AttemptTimedOut
    │   └── AgentsEnded          the event loop that the attempt was on ended under it
    ├── Suspended                the run is paused; it ends with no result and is begun anew
    ├── Poison                   a record that cannot be read; ends as a dead letter
    │   ├── NullValue
    │   ├── NotJson
    │   ├── WrongShape
    │   ├── NewerSchema
    │   ├── RecordTooLarge
    │   ├── BatchTooLarge        the batch that it came in unpacks to too much
    │   ├── BatchUnreadable      that batch is corrupt
    │   ├── RequestIdReused      its id was that of a request for something else
    │   └── Unserviceable        lanes fail by it again and again
    ├── Misconfigured            a setting, policy or topic is wrong; says which and what to do
    │   ├── NoSuchTopic
    │   └── TopicDrift
    ├── NoSuchPartition      what was asked for does not stand at the partition that was named
    ├── DeadLetterNotFound   there is no dead letter at or of an address
    ├── CannotRedrive        a dead letter cannot be put back as asked; says why
    │   └── BatchLost        it stands for a batch of several records: they are to be sent again
    ├── HistoryGone              records that a restore needs were removed (wanted, oldest)
    ├── ServiceUnavailable       Kafka or Redis does not answer
    ├── ForeignKey               a key of the view in Redis holds what is not the view's
    ├── AnswerUnread             the reader of an answer cannot go on
    │   ├── AnswerLate           nothing of it came in time
    │   │   └── AnswerUnknown    and no such request of this user has come
    │   ├── AnswerGone           what was to be read is no longer kept
    │   └── AnswerAltered        the result's text is not the one that was read
    └── LaneLost                 a commit's outcome is unknown: the lane starts anew
        ├── LaneFenced           a newer owner has the lane's partition
        ├── LaneLapsed           a newer owner may have it: the group has not heard of this worker
        └── LaneOutdated         a newer version wrote what the lane is to know

The kinds of `Terminal` from `ModelUnavailable` on are in `runs/errors.py`; those of `Poison`, and
the errors of dead letters, are in `dead_letters.py`; `AnswerInvalid`, a `Terminal`, is in
`agents/templates/structured.py`.

`code` is what goes on the wire: stable, lower snake case.
"""

from __future__ import annotations

from typing import ClassVar


class MillstreamError(Exception):
    """Base of every error that Millstream raises on purpose."""

    code: ClassVar[str] = "error"


class Terminal(MillstreamError):
    """The run ends now: the same input would fail in the same way."""

    code = "failed"


class Rejected(Terminal):
    """Refused before the run started, by a middleware or by a check on the request itself."""

    code = "rejected"


class Forbidden(Rejected):
    """The user may not do this."""

    code = "forbidden"


class RateLimited(Rejected):
    """A limit on requests is reached; after `retry_after_s` seconds this one would be let in."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BudgetExceeded(Rejected):
    """A cap on spend is reached, or the run's reservation does not fit under it.

    After `retry_after_s` seconds its day is over; `None`: it would fit under no day's cap.
    """

    code = "budget_exceeded"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelUnpriced(Rejected):
    """The user's spend is capped, and nothing could hold a model without a known price to it."""

    code = "model_unpriced"


class UnknownTemplate(Rejected):
    """The request names an agent template that no worker has."""

    code = "unknown_template"


class PromptVariableRefused(Rejected):
    """The request's metadata lacks what its template's system prompt needs; names each value."""

    code = "prompt_variable_refused"


class LayerFailed(Rejected):
    """A layer of the chain raised an error, so it cannot be said that the request may pass."""

    code = "layer_failed"


class InputTooLarge(Rejected):
    """The request's input is longer than `input_bytes_max`."""

    code = "input_too_large"


class Expired(Terminal):
    """The request's deadline passed before its run ended."""

    code = "expired"


class Retryable(MillstreamError):
    """The same call may succeed later."""

    code = "retryable"


class ModelFailed(Retryable):
    """The model's provider answered with an error, with nothing, or broke off.

    `retry_after_s` is when it says it may be asked again, if it does. `may_cost`: the call was not
    refused but broke off, or its answer cannot be read, and the provider may charge for it.
    `is_over`: the provider itself ended the answer, so it charges for no more than came.
    """

    code = "model_failed"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        may_cost: bool = False,
        is_over: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.may_cost = may_cost
        self.is_over = is_over


class AttemptTimedOut(Retryable):
    """An attempt took longer than its template allows."""

    code = "attempt_timed_out"


class AgentsEnded(Retryable):
    """The event loop that the attempt was on ended, by code of some run."""

    code = "agents_ended"


class Poison(MillstreamError):
    """A record that cannot be read as an event of its topic."""

    code = "poison"


class Misconfigured(MillstreamError):
    """A setting, policy or topic is wrong; the message says which, and what to do."""

    code = "misconfigured"


class NoSuchTopic(Misconfigured):
    """A topic does not exist; a worker creates it, or `millstream topics --create`."""

    code = "no_such_topic"


class TopicDrift(Misconfigured):
    """A topic on the broker differs from the catalogue in a way that is not safe to work with."""

    code = "topic_drift"


class NoSuchPartition(MillstreamError):
    """What was asked for does not stand at the partition that was named; says where it may."""

    code = "no_such_partition"


class HistoryGone(MillstreamError):
    """A log of `topic` lacks records without which a state cannot be rebuilt.

    `wanted` is the first offset needed, or that to restore to; `oldest` the first that stands.
    """

    code = "history_gone"

    def __init__(
        self, message: str, *, topic: str, partition: int, wanted: int, oldest: int
    ) -> None:
        super().__init__(f"{topic}-{partition}: {message}")
        self.topic = topic
        self.partition = partition
        self.wanted = wanted
        self.oldest = oldest


class ForeignKey(MillstreamError):
    """A key of the view in Redis holds what is not the view's: another try changes nothing."""

    code = "foreign_key"


class ServiceUnavailable(MillstreamError):
    """Kafka or Redis does not answer at the address it was given."""

    code = "service_unavailable"


class AnswerUnread(MillstreamError):
    """The reader of an answer cannot go on."""

    code = "answer_unread"


class AnswerLate(AnswerUnread):
    """Nothing more of the answer came within the reader's time-out; it may be asked again."""

    code = "answer_late"


class AnswerUnknown(AnswerLate):
    """Nothing came within the reader's time-out, and no such request of this user has come."""

    code = "answer_unknown"


class AnswerGone(AnswerUnread):
    """Records that are needed were deleted by their topic's retention."""

    code = "answer_gone"


class AnswerAltered(AnswerUnread):
    """The result's text is not that of its tokens, or not the one that its hash was made of."""

    code = "answer_altered"


class Suspended(MillstreamError):
    """The run is not to make its next call now: its attempt ends without a result."""

    code = "suspended"


class LaneLost(MillstreamError):
    """The outcome of a lane's commit is unknown, so what it holds in memory may be wrong."""

    code = "lane_lost"


class LaneFenced(LaneLost):
    """A newer owner has taken over the lane's partition."""

    code = "lane_fenced"


class LaneLapsed(LaneLost):
    """The worker was out of its group for all that it knows: the partition may be another's."""

    code = "lane_lapsed"


class LaneOutdated(LaneLost):
    """A record that the lane folds is of a newer schema version, and without it it decides wrongly.

    The message says which record; a worker of the version that wrote it serves the partition.
    """

    code = "lane_outdated"
