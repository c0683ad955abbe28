from __future__ import annotations

import socket

from millstream.infra.ports import HOST, choose_ports, is_free, listens


def test_each_name_gets_a_free_port_of_its_own() -> None:
    chosen = choose_ports(("one", "two", "three"), {})
    assert len(set(chosen.values())) == 3
    assert all(is_free(port) for port in chosen.values())


def test_a_port_that_is_still_free_is_kept() -> None:
    before = choose_ports(("one",), {})
    assert choose_ports(("one",), before) == before


def test_a_port_that_was_taken_meanwhile_is_replaced() -> None:
    before = choose_ports(("one", "two"), {})
    with socket.create_server((HOST, before["one"])):
        after = choose_ports(("one", "two"), before)
    assert after["one"] not in before.values()
    assert after["two"] == before["two"]


async def test_an_address_listens_only_while_a_server_does() -> None:
    port = choose_ports(("one",), {})["one"]
    with socket.create_server((HOST, port)):
        assert await listens(f"{HOST}:{port}")
    assert not await listens(f"{HOST}:{port}")


async def test_an_address_without_a_port_listens_to_nobody() -> None:
    assert not await listens("broker")
