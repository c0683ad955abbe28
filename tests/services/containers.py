"""Kafka and Redis in Docker through testcontainers, where an engine answers and has the images."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors
import requests
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient, get_docker_host

from tests.services.probes import free_port

KAFKA_IMAGE = "apache/kafka:4.3.1"
REDIS_IMAGE = "redis:8"

_DEFAULT_HOST = "unix:///var/run/docker.sock"
_ENGINE_TIMEOUT_S = 5
_PULL_SILENCE_S = 10
_PULL_TIMEOUT_S = 120.0
_LOG_TAIL_CHARS = 3000

# Ryuk is an image of its own that must be pulled; our containers end with their context managers.
testcontainers_config.ryuk_disabled = True


class NoContainer(Exception):
    """No container can be had here; says why."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A Docker engine, and where it listens: `unix:///path` or `tcp://host:port`."""

    host: str

    @classmethod
    def default(cls) -> Engine:
        """Give the engine that the environment or Docker's own configuration names."""
        return cls(get_docker_host() or _DEFAULT_HOST)

    def options(self, timeout_s: int = 60) -> dict[str, Any]:
        """Give the arguments that lead a client of Docker's to this engine."""
        return {"environment": {"DOCKER_HOST": self.host}, "timeout": timeout_s}

    def version(self) -> str:
        """Give its version; raises `NoContainer` if it does not answer."""
        try:
            if self.host.startswith("unix://"):
                # Docker's client leaks the socket that it could not connect; this one is closed.
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(self.host.removeprefix("unix://"))
            client = DockerClient(**self.options(_ENGINE_TIMEOUT_S)).client
            try:
                return str(client.version()["Version"])
            finally:
                client.close()
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            message = f"no Docker engine answers at {self.host}"
            raise NoContainer(message) from error

    def have_image(self, image: str) -> None:
        """See to it that the engine has `image`; raises `NoContainer` if it cannot get it soon.

        A pull that shows no progress for ten seconds is given up: no image hub may be in reach.
        """
        client = DockerClient(**self.options(_PULL_SILENCE_S)).client
        deadline = time.monotonic() + _PULL_TIMEOUT_S
        repository, _, tag = image.rpartition(":")
        try:
            try:
                client.images.get(image)
            except docker.errors.ImageNotFound:
                for _ in client.api.pull(repository, tag=tag, stream=True, decode=True):
                    if time.monotonic() > deadline:
                        message = f"pulling {image} takes longer than {_PULL_TIMEOUT_S:g} s"
                        raise NoContainer(message) from None
                client.images.get(image)
        except (docker.errors.DockerException, requests.RequestException) as error:
            message = f"the image {image} is not here and cannot be pulled"
            raise NoContainer(message) from error
        finally:
            client.close()


@contextmanager
def kafka_container(engine: Engine, image: str = KAFKA_IMAGE) -> Iterator[str]:
    """Run one Kafka node in KRaft mode; give its address, at which it may not answer yet.

    The variables are those of Kafka's own image: `KAFKA_` and the property's name.
    """
    engine.have_image(image)
    port, controller = free_port(), free_port()
    container = DockerContainer(image, engine.options()).with_envs(
        KAFKA_NODE_ID="1",
        KAFKA_PROCESS_ROLES="broker,controller",
        KAFKA_LISTENERS=f"CLIENT://0.0.0.0:{port},CONTROLLER://127.0.0.1:{controller}",
        KAFKA_ADVERTISED_LISTENERS=f"CLIENT://127.0.0.1:{port}",
        KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
        KAFKA_INTER_BROKER_LISTENER_NAME="CLIENT",
        KAFKA_CONTROLLER_QUORUM_VOTERS=f"1@127.0.0.1:{controller}",
        KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
        KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS="8",
        KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
        KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
        KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS="8",
        KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR="1",
        KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR="1",
        KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
        KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
    )
    with _running(container, port):
        yield f"127.0.0.1:{port}"


@contextmanager
def redis_container(engine: Engine, image: str = REDIS_IMAGE) -> Iterator[str]:
    """Run one Redis; give its URL, at which it may not answer yet."""
    engine.have_image(image)
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", ""]
    container = DockerContainer(image, engine.options()).with_command(command)
    with _running(container, port):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def _running(container: DockerContainer, port: int) -> Iterator[None]:
    """Run it where the host reaches its port; a failure meanwhile tells the end of its log."""
    client = container.get_docker_client().client
    if client.networks.list(filters={"driver": "bridge"}):
        container.with_bind_ports(port, port)
    else:
        container.with_kwargs(network_mode="host")
    with container:
        try:
            yield
        except Exception as error:
            log = b"".join(container.get_logs()).decode(errors="replace")
            error.add_note(f"The end of the container's log:\n{log[-_LOG_TAIL_CHARS:]}")
            raise
