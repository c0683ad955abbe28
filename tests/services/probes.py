"""Asks services whether they answer, without an event loop: fixtures of the whole session do."""

from __future__ import annotations

import socket

import redis
from confluent_kafka.admin import AdminClient
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

_RETRY_S = 0.1


def free_port() -> int:
    """Give a TCP port of the loopback address that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def kafka_answers(bootstrap: str, *, timeout_s: float) -> None:
    """Wait until a broker gives its metadata; raises `confluent_kafka.KafkaException`."""
    # librdkafka would write each refused connection to standard error.
    AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(timeout=timeout_s)


def redis_answers(url: str, *, timeout_s: float) -> None:
    """Wait until Redis answers a ping; raises `redis.exceptions.ConnectionError`."""
    retry = Retry(ConstantBackoff(_RETRY_S), int(timeout_s / _RETRY_S))
    with redis.Redis.from_url(url, retry=retry, retry_on_error=[RedisConnectionError]) as client:
        client.ping()
