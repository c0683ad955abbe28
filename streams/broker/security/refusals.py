"""Why a broker and a client do not get on, in a line that says what to mend.

Nothing here shows a secret: errors of brokers name users, those of `ssl` certificates.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from aiokafka.errors import KafkaConnectionError

from millstream.streams.telemetry.causes import causes_of

if TYPE_CHECKING:
    from millstream.streams.broker.security.kafka_security import KafkaSecurity

__all__ = ["AccessRefused", "is_ambiguous", "told_of_tls"]

_CA = "MILLSTREAM_KAFKA_SSL_CA_LOCATION"
_CERTIFICATE = "MILLSTREAM_KAFKA_SSL_CERTIFICATE_LOCATION"

_EXPIRED, _NOT_YET, _HOST, _IP = 10, 9, 62, 64
_FOREIGN = (2, 18, 19, 20, 21)

_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF", "HTTP_REQUEST")
_WANTS_CERTIFICATE = "CERTIFICATE_REQUIRED"
_EXPIRED_OWN = "CERTIFICATE_EXPIRED"
_UNKNOWN_OWN = (
    "ALERT_UNKNOWN_CA",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_CERTIFICATE_REVOKED",
    "ALERT_UNSUPPORTED_CERTIFICATE",
    "ALERT_ACCESS_DENIED",
)
_REFUSES = (*_UNKNOWN_OWN, "ALERT_HANDSHAKE_FAILURE")
_NO_COMMON = ("ALERT_HANDSHAKE_FAILURE", "ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL")


class AccessRefused(KafkaConnectionError):  # type: ignore[misc]
    """A broker refuses this client, or the client the broker: says why, and what to mend.

    It counts as a broker that is away: files and passwords change, and the next connection tries
    again. `of_user`: the user or its password was refused, which is not to be tried often.
    """

    def __init__(self, message: str, *, of_user: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.of_user = of_user

    def __str__(self) -> str:
        """Give the message alone: it stands in lines for people."""
        return self.message


def told_of_tls(
    error: BaseException, security: KafkaSecurity, host: str, names: tuple[str, ...] = ()
) -> str | None:
    """Say what an error of TLS means; `None` for one that is none.

    `names` are those that the broker's certificate has, where they are known.
    """
    found = next(
        (one for one in causes_of(error, beside=True) if isinstance(one, ssl.SSLError)), None
    )
    if found is None:
        return None
    if isinstance(found, ssl.SSLCertVerificationError):
        return _told_of_brokers(found, host, names)
    reason = str(found.reason or found).upper()
    has_own = security.tls is not None and security.tls.certificate is not None
    if any(word in reason for word in _NO_TLS):
        return None  # whoever asks looks what the port speaks
    words = f"TLS fails ({_plain(reason)})"
    if _WANTS_CERTIFICATE in reason or (not has_own and any(map(reason.__contains__, _REFUSES))):
        words = f"it wants a certificate of the client: set {_CERTIFICATE}, and its key"
    elif _EXPIRED_OWN in reason:
        words = f"it refuses the client's certificate, which has expired: renew {_own(security)}"
    elif any(map(reason.__contains__, _UNKNOWN_OWN)):
        words = (
            f"it refuses the client's certificate ({_plain(reason)}): have {_own(security)} signed "
            "by an authority that the broker trusts"
        )
    elif any(map(reason.__contains__, _NO_COMMON)):
        words = (
            f"no version or cipher of TLS in common ({_plain(reason)}), or it refuses the client's "
            "certificate"
        )
    return words


def is_ambiguous(error: BaseException) -> bool:
    """Tell whether an error may mean that client and port speak another protocol.

    An address that cannot be resolved or refuses a connection means nothing of the kind.
    """
    if isinstance(error, KafkaConnectionError | TimeoutError | ConnectionResetError | EOFError):
        return True
    return any(isinstance(one, ssl.SSLError) for one in causes_of(error, beside=True))


def _told_of_brokers(error: ssl.SSLCertVerificationError, host: str, names: tuple[str, ...]) -> str:
    match error.verify_code:
        case code if code == _EXPIRED:
            return "the broker's certificate has expired: have it renewed"
        case code if code == _NOT_YET:
            return "the broker's certificate does not hold yet: compare the clocks"
        case code if code in {_HOST, _IP}:
            named = f" but for {', '.join(names)}" if names else ""
            return (
                f"the broker's certificate is not for {host}{named}: name it so in "
                "MILLSTREAM_KAFKA and advertised.listeners, or have the certificate name it"
            )
        case code if code in _FOREIGN:
            return (
                "the broker's certificate is signed by an authority that is not trusted here "
                f"({error.verify_message}): name its certificate in {_CA}"
            )
    return f"the broker's certificate is refused ({error.verify_message})"


def _own(security: KafkaSecurity) -> str:
    if security.tls is None or security.tls.certificate is None:
        return _CERTIFICATE
    return security.tls.certificate.given.named


def _plain(reason: str) -> str:
    return reason.lower().replace("_", " ")
