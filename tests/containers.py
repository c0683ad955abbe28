"""Kafka and Redis in Docker through testcontainers, where an engine answers and has the images."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import docker
import docker.errors
import requests
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient, get_docker_host

from tests.probes import free_port

KAFKA_IMAGE = "apache/kafka:4.3.1"
REDIS_IMAGE = "redis:8"

_DEFAULT_HOST = "unix:///var/run/docker.sock"
_ENGINE_TIMEOUT_S = 5
_PULL_SILENCE_S = 10
_PULL_TIMEOUT_S = 120.0

# Ryuk is an image of its own that must be pulled; our containers end with their context managers.
testcontainers_config.ryuk_disabled = True


class NoContainer(Exception):
    """No container can be had here; says why."""


def engine_version() -> str:
    """Give the version of the Docker engine; raises `NoContainer` if none answers."""
    host = get_docker_host() or _DEFAULT_HOST
    try:
        if host.startswith("unix://"):
            # Docker's client leaks the socket that it could not connect; this one is closed.
            with socket.socket(socket.AF_UNIX) as engine:
                engine.connect(host.removeprefix("unix://"))
        client = DockerClient(timeout=_ENGINE_TIMEOUT_S).client
        try:
            return str(client.version()["Version"])
        finally:
            client.close()
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        message = f"no Docker engine answers at {host}"
        raise NoContainer(message) from error


def have_image(image: str) -> None:
    """See to it that the engine has `image`; raises `NoContainer` if it cannot be pulled soon.

    A pull that shows no progress for ten seconds is given up: no image hub may be in reach.
    """
    client = DockerClient(timeout=_PULL_SILENCE_S).client
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
def kafka_container() -> Iterator[str]:
    """Run one Kafka node in KRaft mode; give its address, at which it may not answer yet."""
    have_image(KAFKA_IMAGE)
    port, controller = free_port(), free_port()
    container = DockerContainer(KAFKA_IMAGE).with_envs(
        KAFKA_NODE_ID="1",
        KAFKA_PROCESS_ROLES="broker,controller",
        KAFKA_LISTENERS=f"CLIENT://0.0.0.0:{port},CONTROLLER://127.0.0.1:{controller}",
        KAFKA_ADVERTISED_LISTENERS=f"CLIENT://127.0.0.1:{port}",
        KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
        KAFKA_INTER_BROKER_LISTENER_NAME="CLIENT",
        KAFKA_CONTROLLER_QUORUM_VOTERS=f"1@127.0.0.1:{controller}",
        KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
        KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
        KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
        KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR="1",
        KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR="1",
        KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
        KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
    )
    with _reachable(container, port):
        yield f"127.0.0.1:{port}"


@contextmanager
def redis_container() -> Iterator[str]:
    """Run one Redis; give its URL, at which it may not answer yet."""
    have_image(REDIS_IMAGE)
    port = free_port()
    container = DockerContainer(REDIS_IMAGE).with_command(["redis-server", "--port", str(port)])
    with _reachable(container, port):
        yield f"redis://127.0.0.1:{port}/0"


def _reachable(container: DockerContainer, port: int) -> DockerContainer:
    """Publish the port, or share the host's network where the engine has no bridge."""
    client = container.get_docker_client().client
    if client.networks.list(filters={"driver": "bridge"}):
        return container.with_bind_ports(port, port)
    return container.with_kwargs(network_mode="host")
