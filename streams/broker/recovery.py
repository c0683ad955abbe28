"""Kafka's clients that find the brokers again, however long and wherever they were away.

aiokafka asks the configured names once, at its start. After that it knows only the addresses that
brokers gave, so brokers that all come back at others are never found (its issue 456). It
also tries a broker that refuses it some hundred times a second (496), and lets one that hangs hold
up all other connections for 40 s. Here, as in Kafka's own clients (KIP-899):

- where no known broker answers, the configured names are resolved and asked again;
- a broker that cannot be reached is tried again after a growing pause, shared by all who want it;
- a connection, an update of metadata and the question for a coordinator take seconds at most;
- of several names that are configured, one that hangs holds up none of the others;
- a connection to an address that is not its broker's any more is closed;
- a connection whose session of SASL ends soon is followed by another one before it ends;
- who asks about a topic does not create it. Brokers do that by default, with partitions of their
  own number, and aiokafka always lets them.

A client that is made with `clients.connecting` has its connections made by `security/live.py`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import nullcontext
from typing import Any

from aiokafka import client as aiokafka_client
from aiokafka.admin import client as admin_client
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.consumer import consumer as consumer_client
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    RequestTimedOutError,
)
from aiokafka.producer import producer as producer_client
from aiokafka.protocol.metadata import MetadataRequest

from millstream.streams.broker.security.connection import SecuredConnection
from millstream.streams.broker.security.live import LiveSecurity
from millstream.streams.broker.security.refusals import AccessRefused

__all__ = ["RecoveringClient", "recover_brokers", "told_of_broker"]

_ANSWER_S = 5.0
"""How long a broker may take to be connected to, or to answer what each answers at once."""

_NEXT_NAME_S = 0.3
"""So long after one configured name the next one is asked, too."""

_PAUSE_MIN_S = 0.05
_PAUSE_MAX_S = 1.0
_REFUSED_PAUSE_MAX_S = 5.0
"""Of a broker that refuses the user: accounts are locked where a wrong password comes often."""

_NAMES = "bootstrap"
_PLAIN_OPTIONS = ("client_id", "request_timeout_ms", "max_idle_ms", "on_close")
"""Options of a connection that are not about security."""

log = logging.getLogger(__name__)

_connect = aiokafka_client.create_conn


def recover_brokers() -> None:
    """Have every aiokafka client of this process find brokers again; may be called again."""
    aiokafka_client.create_conn = _connect_in_time
    for module in (aiokafka_client, admin_client):
        getattr(module, "MetadataRequest")  # noqa: B009  a rename in aiokafka must fail here
        module.MetadataRequest = AskingMetadata
    for module in (admin_client, consumer_client, producer_client):
        getattr(module, "AIOKafkaClient")  # noqa: B009  a rename in aiokafka must fail here
        module.AIOKafkaClient = RecoveringClient


async def _connect_in_time(*args: Any, **kwargs: Any) -> Any:
    if isinstance(security := kwargs.get("ssl_context"), LiveSecurity):
        how = {name: kwargs[name] for name in _PLAIN_OPTIONS if name in kwargs}
        return await security.connect(*args, timeout_s=_ANSWER_S, **how)
    async with asyncio.timeout(_ANSWER_S):
        return await _connect(*args, **kwargs)


class AskingMetadata(MetadataRequest):  # type: ignore[misc]
    """Asks about topics, and has brokers create none."""

    def __init__(self, topics: list[str] | None = None) -> None:
        super().__init__(topics, allow_auto_topic_creation=False)


class RecoveringClient(AIOKafkaClient):  # type: ignore[misc]
    """aiokafka's client, which does not give up on the names that it was given."""

    _sync_task: asyncio.Task[None] | None

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self._connecting: dict[Any, asyncio.Task[Any]] = {}
        # Which addresses failed, how often in a row, and when they may be tried again.
        self._failed: dict[Any, tuple[int, float]] = {}

    @property
    def _get_conn_lock(self) -> Any:
        # Theirs holds up all brokers while one is connected to. `_connecting` does what it is for.
        return nullcontext()

    async def bootstrap(self) -> None:
        """Learn of the brokers from the configured names, and keep what is known up to date.

        Raises `KafkaConnectionError` if none answers within some 5 s, `AccessRefused` if one does
        and does not let this client in.
        """
        # aiokafka's own asks one name after the other, and waits for each answer for 40 s.
        failed = await self._ask_names(self.cluster, [])
        if failed or not self.hosts:
            raise _no_broker(failed)
        if self._sync_task is None:
            self._sync_task = asyncio.create_task(self._md_synchronizer())

    async def close(self) -> None:
        """Close all connections, also those that are being made."""
        connecting = tuple(self._connecting.values())
        for task in connecting:
            task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)
        await super().close()

    def get_random_node(self) -> Any:
        """Give a broker, if possible one that did not fail when it was last tried."""
        nodes = [broker.nodeId for broker in self.cluster.brokers()]
        sound = [node for node in nodes if self._address(node) not in self._failed]
        return random.choice(sound or nodes) if nodes else None  # noqa: S311  no secret

    async def send(
        self, node_id: Any, request: Any, *, group: Any = ConnectionGroup.DEFAULT
    ) -> Any:
        """Send a request to a node. Raises `KafkaError`, which says why a node is not reached."""
        try:
            return await super().send(node_id, request, group=group)
        except NodeNotReadyError as error:
            if (why := self.why_unreachable(node_id)) is None:
                raise
            raise NodeNotReadyError(why) from error

    def why_unreachable(self, node_id: Any) -> str | None:
        """Say where a broker is, by its own account, and why it is not reached there."""
        broker = self.cluster.broker_metadata(node_id)
        if broker is None or not isinstance(security := self._ssl_context, LiveSecurity):
            return None
        why = security.refusals.get((broker.host, broker.port))
        return None if why is None else told_of_broker(node_id, broker.host, broker.port, why)

    async def coordinator_lookup(self, coordinator_type: Any, coordinator_key: Any) -> Any:
        """Ask a broker who coordinates. Raises `KafkaError`, also where it does not answer."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await super().coordinator_lookup(coordinator_type, coordinator_key)
        except TimeoutError as error:
            message = f"no broker said who coordinates {coordinator_key} in {_ANSWER_S:g} s"
            raise RequestTimedOutError(message) from error

    async def _get_conn(
        self, node_id: Any, *, group: Any = ConnectionGroup.DEFAULT, no_hint: bool = False
    ) -> Any:
        conn_id = (node_id, group)
        conn = self._conns.get(conn_id)
        if conn is not None and conn.connected():
            if not (isinstance(conn, SecuredConnection) and conn.is_spent):
                return conn
            # What it was asked is answered there; what is asked from now on goes over another one.
            del self._conns[conn_id]
            conn.leave()
        task = self._connecting.get(conn_id)
        if task is None:
            task = self._connecting[conn_id] = asyncio.ensure_future(
                self._connect_after_pause(node_id, group, no_hint=no_hint)
            )
            task.add_done_callback(lambda _: self._connecting.pop(conn_id, None))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if task.cancelled() and waiter is not None and not waiter.cancelling():
                return None  # the client was closed: to who waits, the broker is not ready
            raise

    async def _connect_after_pause(self, node_id: Any, group: Any, *, no_hint: bool) -> Any:
        address = self._address(node_id)
        await self._pause(address)
        conn = await super()._get_conn(node_id, group=group, no_hint=no_hint)
        self._note(address, failed=conn is None)
        return conn

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        try:
            async with asyncio.timeout(_ANSWER_S):
                updated = bool(await super()._metadata_update(cluster_metadata, topics))
        except TimeoutError:
            updated = False
        if not updated:
            await self._pause(_NAMES)
            named = list(topics) if topics else None  # all of them
            updated = not await self._ask_names(cluster_metadata, named)
            self._note(_NAMES, failed=not updated)
        if updated and cluster_metadata is self.cluster:
            self._close_moved()
        return updated

    async def _ask_names(self, cluster_metadata: Any, topics: list[str] | None) -> list[KafkaError]:
        """Learn of the brokers from the configured names, resolved anew.

        They are asked one after the other at short intervals, and who answers first is believed.
        Gives why each failed, nothing if one did not.
        """
        failed: list[KafkaError] = []
        asked: set[asyncio.Task[Any]] = set()
        try:
            hosts = [(host, port) for host, port, _ in self.hosts]
            while hosts or asked:
                if hosts:
                    asked.add(asyncio.create_task(self._ask_name(*hosts.pop(0), topics)))
                done, asked = await asyncio.wait(
                    asked,
                    timeout=_NEXT_NAME_S if hosts else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    if isinstance(answer := task.result(), KafkaError):
                        failed.append(answer)
                    else:
                        cluster_metadata.update_metadata(answer)
                        return []
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return failed

    async def _ask_name(self, host: str, port: int, topics: list[str] | None) -> Any:
        """Give the metadata that a configured name answers with, or the error why it does not."""
        conn, kind = None, KafkaConnectionError
        try:
            conn = await self._connect_to(host, port)
            async with asyncio.timeout(_ANSWER_S):
                metadata = await conn.send(AskingMetadata(topics))
        except TimeoutError:
            why = f"no answer within {_ANSWER_S:g} s"
        except AccessRefused as error:
            kind, why = AccessRefused, str(error)
        except (OSError, KafkaError) as error:
            why = str(error) or repr(error)
            if isinstance(conn, SecuredConnection) and not conn.connected():
                refused = await self._ssl_context.told_of_end(host, port, timeout_s=_ANSWER_S)
                kind, why = (AccessRefused, str(refused)) if refused else (kind, why)
        else:
            if metadata.brokers:
                return metadata
            why = "it knows of no broker"
        finally:
            if conn is not None:
                conn.close()
        log.debug("%s:%s does not say where the brokers are: %s", host, port, why)
        return kind(f"{host}:{port}: {why}")

    async def _connect_to(self, host: str, port: int) -> Any:
        return await aiokafka_client.create_conn(
            host,
            port,
            client_id=self._client_id,
            request_timeout_ms=self._request_timeout_ms,
            ssl_context=self._ssl_context,
            security_protocol=self._security_protocol,
            max_idle_ms=self._connections_max_idle_ms,
            sasl_mechanism=self._sasl_mechanism,
            sasl_plain_username=self._sasl_plain_username,
            sasl_plain_password=self._sasl_plain_password,
            sasl_kerberos_service_name=self._sasl_kerberos_service_name,
            sasl_kerberos_domain_name=self._sasl_kerberos_domain_name,
            sasl_oauth_token_provider=self._sasl_oauth_token_provider,
        )

    def _close_moved(self) -> None:
        """Close what leads to where a broker was; a host that is gone never says so itself."""
        for (node_id, _), conn in tuple(self._conns.items()):
            address = self._address(node_id)
            if node_id != _NAMES and address not in {node_id, (conn.host, conn.port)}:
                conn.close(reason=CloseReason.CONNECTION_BROKEN)

    def _address(self, node_id: Any) -> Any:
        broker = self.cluster.broker_metadata(node_id)
        return node_id if broker is None else (broker.host, broker.port)

    async def _pause(self, address: Any) -> None:
        _, again_at = self._failed.get(address, (0, 0.0))
        pause_s = again_at - asyncio.get_running_loop().time()
        if pause_s > 0:
            await asyncio.sleep(pause_s)

    def _note(self, address: Any, *, failed: bool) -> None:
        if not failed:
            self._failed.pop(address, None)
            return
        times = self._failed.get(address, (0, 0.0))[0] + 1
        pause_max_s = _PAUSE_MAX_S
        if isinstance(security := self._ssl_context, LiveSecurity) and security.refuses_user:
            pause_max_s = _REFUSED_PAUSE_MAX_S
        pause_s = min(_PAUSE_MIN_S * 2 ** min(times, 10), pause_max_s)
        pause_s *= random.uniform(0.8, 1.2)  # noqa: S311  so that clients do not come all at once
        self._failed[address] = (times, asyncio.get_running_loop().time() + pause_s)


def told_of_broker(node_id: Any, host: str, port: int, why: str) -> str:
    """Say why a broker cannot be reached where brokers say that it is."""
    return (
        f"broker {node_id} is at {host}:{port}, as its advertised.listeners say, and cannot be "
        f"reached there: {why}"
    )


def _no_broker(failed: list[KafkaError]) -> KafkaConnectionError:
    refused = [str(one) for one in failed if isinstance(one, AccessRefused)]
    if refused:
        return AccessRefused("; ".join(refused))
    return KafkaConnectionError(f"no broker answers ({'; '.join(_words(one) for one in failed)})")


def _words(error: KafkaError) -> str:
    # aiokafka's own begins with the error's name.
    return str(error.args[0]) if error.args else str(error)
