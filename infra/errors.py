"""What can go wrong in the launcher, as one tree.

InfraError
├── LockFileInvalid     the committed list of jars cannot be read
├── JarMismatch         a jar's bytes are not the pinned ones
├── DownloadFailed      a jar could not be fetched
├── CacheUnwritable     the folder of downloads cannot be made or written
├── DataInUse           another launcher holds the data folder
├── DataUnwritable      the data folder cannot be made or written
├── DataMismatch        the data folder was made for something else
├── NoFreePort          no port could be found on 127.0.0.1
├── NotRotated          brokers did not take over a new certificate or password
├── ServiceDied         a process ended that should be running
└── NotReady            a service did not answer in time
"""

__all__ = [
    "CacheUnwritable",
    "DataInUse",
    "DataMismatch",
    "DataUnwritable",
    "DownloadFailed",
    "InfraError",
    "JarMismatch",
    "LockFileInvalid",
    "NoFreePort",
    "NotReady",
    "NotRotated",
    "ServiceDied",
]


class InfraError(Exception):
    """Any failure the launcher can explain; its text tells a person what to do."""


class LockFileInvalid(InfraError):
    """The committed list of jars is missing or a line of it is malformed."""


class JarMismatch(InfraError):
    """A jar was fetched whose sha256 is not the pinned one; it is not used."""


class DownloadFailed(InfraError):
    """A jar could not be fetched."""


class CacheUnwritable(InfraError):
    """The folder of downloads cannot be made, or nothing may be written in it."""


class DataInUse(InfraError):
    """Another launcher holds the data folder."""


class DataUnwritable(InfraError):
    """The data folder cannot be made, or nothing may be written in it."""


class DataMismatch(InfraError):
    """The data folder was made for another number of brokers, or its state cannot be read."""


class NoFreePort(InfraError):
    """No port could be found on 127.0.0.1."""


class NotRotated(InfraError):
    """Brokers did not take over a new certificate or password; the text holds what they said."""


class ServiceDied(InfraError):
    """A process ended that should be running; the text holds the end of its log.

    `exit_code` is negative for a signal, `None` where none is known.
    """

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NotReady(InfraError):
    """A service did not answer within its limit."""

    exit_code: int | None = None
