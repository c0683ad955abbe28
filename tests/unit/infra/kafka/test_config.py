from __future__ import annotations

from millstream.infra.kafka.config import Listener, NodeSpec, server_properties


def _settings(spec: NodeSpec) -> dict[str, str]:
    lines = server_properties(spec).splitlines()
    return dict(line.split("=", maxsplit=1) for line in lines)


_ONE = NodeSpec(1, 9001, ((1, 9101),))
_SECOND_OF_THREE = NodeSpec(2, 9002, ((1, 9101), (2, 9102), (3, 9103)))


def test_a_node_listens_on_loopback_only_and_tells_clients_so() -> None:
    settings = _settings(_SECOND_OF_THREE)
    assert settings["listeners"] == "CLIENT://127.0.0.1:9002,CONTROLLER://127.0.0.1:9102"
    assert settings["advertised.listeners"] == "CLIENT://127.0.0.1:9002"


def test_clients_of_a_further_listener_are_sent_to_the_port_it_advertises() -> None:
    settings = _settings(NodeSpec(1, 9001, ((1, 9101),), more=(Listener("FAR", 9201, 9301),)))
    assert settings["listeners"].endswith(",FAR://127.0.0.1:9201")
    assert settings["advertised.listeners"].endswith(",FAR://127.0.0.1:9301")
    assert settings["listener.security.protocol.map"].endswith(",FAR:PLAINTEXT")


def test_further_properties_come_on_top() -> None:
    spec = NodeSpec(1, 9001, ((1, 9101),), properties=(("num.io.threads", "2"), ("a.b", "c")))
    settings = _settings(spec)
    assert (settings["num.io.threads"], settings["a.b"]) == ("2", "c")


def test_every_node_knows_all_controllers() -> None:
    voters = "1@127.0.0.1:9101,2@127.0.0.1:9102,3@127.0.0.1:9103"
    assert _settings(_SECOND_OF_THREE)["controller.quorum.voters"] == voters


def test_a_single_node_keeps_one_copy_of_everything() -> None:
    settings = _settings(_ONE)
    copies = {name: value for name, value in settings.items() if "replication.factor" in name}
    assert len(copies) == 4
    assert set(copies.values()) == {"1"}
    assert settings["min.insync.replicas"] == settings["transaction.state.log.min.isr"] == "1"


def test_three_nodes_keep_three_copies_of_which_two_must_be_in_sync() -> None:
    settings = _settings(_SECOND_OF_THREE)
    copies = {value for name, value in settings.items() if "replication.factor" in name}
    assert copies == {"3"}
    assert settings["min.insync.replicas"] == settings["transaction.state.log.min.isr"] == "2"


def test_no_topic_comes_into_being_by_being_named() -> None:
    assert _settings(_ONE)["auto.create.topics.enable"] == "false"


def test_no_path_of_the_data_folder_is_written_into_the_settings() -> None:
    assert _settings(_ONE)["log.dirs"] == "log"
