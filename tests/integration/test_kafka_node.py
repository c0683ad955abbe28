from __future__ import annotations

import socket
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from millstream.infra.errors import ServiceDied
from millstream.infra.kafka.jars import class_path, read_lock
from millstream.infra.kafka.node import JavaSettings, KafkaCluster, brokers_seen, port_names
from millstream.infra.paths import LOCK_FILE, cache_folder
from millstream.infra.ports import HOST
from millstream.infra.state import LauncherState


def _cluster(data: Path, brokers: int) -> KafkaCluster:
    state = LauncherState.load(data, brokers).with_ports(port_names(brokers))
    java = JavaSettings(class_path(read_lock(LOCK_FILE), cache_folder()))
    return KafkaCluster.at(data, state.ports, state.cluster_id, java, brokers)


async def test_a_broker_that_dies_early_tells_the_end_of_its_log(tmp_path: Path) -> None:
    cluster = _cluster(tmp_path, 1)
    with (
        socket.create_server((HOST, cluster.nodes[0].spec.port)),
        pytest.raises(ServiceDied, match=r"(?s)kafka-1 ended.*already in use"),
    ):
        await cluster.start()


@pytest.mark.slow
@pytest.mark.cluster
async def test_a_killed_broker_stops_no_writes_and_returns_to_its_port_and_data(
    tmp_path: Path,
) -> None:
    cluster = _cluster(tmp_path, 3)
    await cluster.start()
    try:
        admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic("fault", 3, 3)])
        await admin.close()
        victim = cluster.nodes[2]
        await victim.kill()
        assert victim.pid is None
        producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, enable_idempotence=True)
        await producer.start()
        for partition in range(3):
            await producer.send_and_wait("fault", b"value", partition=partition)
        await producer.stop()
        await victim.start()
        assert await brokers_seen(victim.spec.address) == {1, 2, 3}
    finally:
        await cluster.stop()
