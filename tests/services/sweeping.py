"""Topics of tests that have ended are deleted: brokers get slower with each that they keep."""

from __future__ import annotations

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

__all__ = ["Sweeper"]

_AT_ONCE = 8
_LIST_TIMEOUT_S = 10.0


class Sweeper:
    """Deletes the topics of namespaces that are over, of several at once. Waits for no answer.

    A thousand tests left 15,000 partitions behind: the last ones took three times their time.
    """

    def __init__(self, kafka: str) -> None:
        # librdkafka would write each refused connection to standard error.
        self._admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
        self._over: set[str] = set()

    def over(self, namespace: str) -> None:
        """Take a deployment for over: no test uses it any more."""
        self._over.add(namespace)
        if len(self._over) >= _AT_ONCE:
            self._sweep()

    def _sweep(self) -> None:
        try:
            topics = self._admin.list_topics(timeout=_LIST_TIMEOUT_S).topics
        except KafkaException:  # brokers that a test has ended are none of this one's business
            return
        prefixes = tuple(f"{one}{separator}" for one in self._over for separator in ".-")
        if old := [name for name in topics if name.startswith(prefixes)]:
            self._admin.delete_topics(old)
        self._over.clear()
