"""Which Kafka and Redis the tests run on: named by the environment, in Docker, or launched here.

Or secure ones, which are launched here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from redis.exceptions import ConnectionError as RedisConnectionError

from millstream.streams.settings import Settings
from tests.services.containers import Engine, NoContainer, kafka_container, redis_container
from tests.services.launcher import launched
from tests.services.probes import kafka_answers, redis_answers
from tests.services.secure import secure_services
from tests.services.users import secured, secured_variables

KAFKA_VARIABLE = "MILLSTREAM_KAFKA"
REDIS_VARIABLE = "MILLSTREAM_REDIS_URL"

_NAMED_TIMEOUT_S = 15.0
_CONTAINER_TIMEOUT_S = 90.0


class Unanswered(Exception):
    """A service that the environment names does not answer; says which, and where."""


@dataclass(frozen=True, slots=True)
class Services:
    """Where Kafka and Redis answer, and in words how each was come by.

    `credentials` is the folder of the users' files where they are secure, see `infra.secure`.
    """

    kafka: str
    redis_url: str
    told: tuple[str, ...]
    credentials: Path | None = None

    def settings(self, **more: Any) -> Settings:
        """Give settings that name them: those of `admin`, where they are secure."""
        found = Settings(kafka=self.kafka, redis_url=self.redis_url, **more)
        return found if self.credentials is None else secured(found, self.credentials)

    def variables(self, namespace: str, **more: str) -> dict[str, str]:
        """Give the variables of commands on a deployment, each of which has its user's rights.

        `users.variables_as` says as whom a command runs.
        """
        settings = self.settings(namespace=namespace)
        named = {KAFKA_VARIABLE: self.kafka, REDIS_VARIABLE: self.redis_url}
        return {**named, "MILLSTREAM_NAMESPACE": namespace, **secured_variables(settings), **more}


@contextmanager
def running_services(
    environment: Mapping[str, str], data: Path, *, named_timeout_s: float = _NAMED_TIMEOUT_S
) -> Iterator[Services]:
    """Give services that answer, and stop what was started for it.

    `environment` holds the `MILLSTREAM_` variables of the run; an empty one counts as unset.
    Raises `Unanswered` if it names a service that does not answer within `named_timeout_s`.
    """
    with ExitStack() as started:
        told: list[str] = []
        found = {name: environment.get(name, "") for name in (KAFKA_VARIABLE, REDIS_VARIABLE)}
        for name, address in found.items():
            if address:
                _named_answers(name, address, named_timeout_s)
                told.append(f"{address} (named by {name})")
        if not all(found.values()):
            found |= _in_docker([name for name, at in found.items() if not at], started, told)
        if not all(found.values()):
            ready = started.enter_context(launched(data, {**environment, **found}))
            for name, field in ((KAFKA_VARIABLE, "kafka"), (REDIS_VARIABLE, "redis_url")):
                if not found[name]:
                    found[name] = ready[field]
                    told.append(f"{ready[field]} (dev launcher)")
        yield Services(found[KAFKA_VARIABLE], found[REDIS_VARIABLE], tuple(told))


@contextmanager
def running_secure_services(data: Path) -> Iterator[Services]:
    """Give the launcher's secure services: each role has its own user, and is given its rights."""
    with secure_services(data) as running:
        told = (f"{running.kafka} and {running.redis_url} (dev launcher, secure)",)
        yield Services(running.kafka, running.redis_url, told, running.credentials)


_CONTAINERS: dict[str, Callable[[Engine], AbstractContextManager[str]]] = {
    KAFKA_VARIABLE: kafka_container,
    REDIS_VARIABLE: redis_container,
}
_ANSWERS: dict[str, Callable[..., None]] = {
    KAFKA_VARIABLE: kafka_answers,
    REDIS_VARIABLE: redis_answers,
}


def _named_answers(name: str, address: str, timeout_s: float) -> None:
    try:
        _ANSWERS[name](address, timeout_s=timeout_s)
    except (KafkaException, RedisConnectionError) as error:
        message = f"{name} names {address}, where nothing answers: unset it, or start that service"
        raise Unanswered(message) from error


def _in_docker(wanted: list[str], started: ExitStack, told: list[str]) -> dict[str, str]:
    """Start each wanted service in Docker, so far as that can be had; the rest is left out."""
    found: dict[str, str] = {}
    engine = Engine.default()
    try:
        version = engine.version()
    except NoContainer as why:
        told.append(str(why))
        return found
    for name in wanted:
        with ExitStack() as attempt:
            try:
                address = attempt.enter_context(_CONTAINERS[name](engine))
                _ANSWERS[name](address, timeout_s=_CONTAINER_TIMEOUT_S)
            except (NoContainer, KafkaException, RedisConnectionError) as why:
                told.append(f"Docker {version}: {why}")
            else:
                found[name] = address
                told.append(f"{address} (Docker {version})")
                started.push(attempt.pop_all())
    return found
