"""What went wrong elsewhere between clients and secure brokers, tried on a real one.

Public reports, and what went wrong there:

- kafka-python-ng/kafka-python-ng#196, aio-libs/aiokafka#1043: `,` and `=` in a user of SCRAM.
- tulios/kafkajs#506, provectus/kafka-ui#2116: `,` and `=` in a password of SCRAM are taken for
  signs of the message.
- aio-libs/aiokafka#1015, confluentinc/confluent-kafka-python#1485, confluentinc/librdkafka#3293: a
  token that is renewed, and connections that go on with the old one until the broker ends them.
- googleapis/managedkafka#17: a clock is off, and a token is held for expired.
- banzaicloud/koperator#365, redpanda-data/redpanda#2891: a right comes of other rules
  than those that are looked at.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka.errors import KafkaError
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from millstream.schemas.errors import MillstreamError
from millstream.schemas.topics import REQUESTS, RESULTS, TOKENS
from millstream.streams.broker.clients import idempotent_producer
from millstream.streams.broker.diagnosis.reach import require_reach
from millstream.streams.broker.rights.granted import granted
from millstream.streams.broker.rights.needed import Resource
from millstream.streams.broker.security.live import live_security
from millstream.streams.broker.security.tokens import Tokens
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from tests.harness.guarded_kafka import guarded_kafka
from tests.harness.secure_kafka import (
    ODD_PASSWORD,
    ODD_USER,
    SecureKafka,
    make_user,
    secure_kafka,
    token,
)
from tests.harness.token_endpoint import SECRET, endpoint
from tests.support import eventually


@pytest.fixture(scope="module")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecureKafka]:
    async with secure_kafka(tmp_path_factory.mktemp("secure")) as running:
        yield running


@pytest.fixture
def base(tmp_path: Path) -> Settings:
    return Settings(namespace=f"t-{tmp_path.name}"[:40], partitions=1, data_dir=tmp_path)


def by_token(kafka: SecureKafka, base: Settings, file: Path) -> Settings:
    return kafka.settings(
        base,
        "CLEAR",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="OAUTHBEARER",
        sasl_oauthbearer_token_endpoint_url=f"file://{file}",
    )


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("user", ["a,b=c", "=2C", "CN=ada,O=x"])
async def test_a_user_of_scram_may_have_any_signs_in_its_password_and_those_of_scram_in_its_name(
    kafka: SecureKafka, base: Settings, user: str, mechanism: str
) -> None:
    password = f"=2C,={user}% ${{x}} grüße €\U0001f600"
    await asyncio.to_thread(make_user, kafka.addresses["PLAIN"], user, password)
    given = kafka.scram(sasl_username=user, sasl_password=password, sasl_mechanism=mechanism)
    settings = kafka.settings(base, "SCRAM", **given)

    async def is_let_in() -> bool:
        try:
            return await require_reach(settings) == ()
        except MillstreamError:
            return False  # brokers are told of a user a little later

    await eventually(is_let_in, timeout_s=10)


async def test_a_user_of_scram_whom_brokers_cannot_read_is_told_so(
    kafka: SecureKafka, base: Settings
) -> None:
    settings = kafka.settings(base, "SCRAM", **kafka.scram(sasl_username="grüße"))
    with pytest.raises(MillstreamError, match="takes only ASCII in the name of a user of SCRAM"):
        await require_reach(settings)


async def test_a_user_of_plain_may_have_any_signs_from_variables_files_and_jaas(
    kafka: SecureKafka, base: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text(f"{ODD_PASSWORD}\n", encoding="utf-8")
    lines = tmp_path / "client.properties"
    lines.write_text(
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\n"
        "sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule REQUIRED "
        f'username="gr\\u00fc\\u00dfe" password="{ODD_PASSWORD[:-1]}\\ud83d\\ude00";\n',
        encoding="utf-8",
    )
    for given in (
        kafka.plain(sasl_username=ODD_USER, sasl_password=ODD_PASSWORD),
        kafka.plain(sasl_username=ODD_USER, sasl_password_file=file),
        {"config": lines},
    ):
        assert await require_reach(kafka.settings(base, "CLEAR", **given)) == ()


async def test_a_token_that_is_renewed_is_shown_before_the_old_one_ends(
    kafka: SecureKafka, base: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(token(lasts_s=6))
    settings = by_token(kafka, base, file)
    await ensure_topics(settings, [REQUESTS])
    topic = settings.topic(REQUESTS.name)
    async with idempotent_producer(settings) as producer:
        await producer.send_and_wait(topic, b"1", partition=0)
        before = dict(producer.client._conns)
        renewed = token(lasts_s=600)
        (tmp_path / "new").write_text(renewed)
        (tmp_path / "new").rename(file)

        async def goes_over_another() -> bool:
            await producer.send_and_wait(topic, b"x", partition=0)
            return any(
                before.get(place) is not conn and conn._token == renewed
                for place, conn in producer.client._conns.items()
            )

        await eventually(goes_over_another, timeout_s=15)


async def test_tokens_of_an_endpoint_are_shared_by_connections_and_outlive_its_outage(
    kafka: SecureKafka, base: Settings
) -> None:
    async with endpoint() as there:
        settings = kafka.settings(
            base,
            "CLEAR",
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="OAUTHBEARER",
            sasl_oauthbearer_token_endpoint_url=there.source.url.value,
            sasl_oauthbearer_client_id="ada",
            sasl_oauthbearer_client_secret=SECRET,
        )
        there.body = json.dumps({"access_token": token(lasts_s=5), "expires_in": "5"})
        await ensure_topics(settings, [REQUESTS])
        async with idempotent_producer(settings) as producer:
            topic = settings.topic(REQUESTS.name)
            await producer.send_and_wait(topic, b"1", partition=0)
            assert len(there.asked) == 1
            there.status = 503

            async def asks_again() -> bool:
                await producer.send_and_wait(topic, b"2", partition=0)
                return len(there.asked) > 1

            await eventually(asks_again, timeout_s=10)
            there.status, there.body = 200, json.dumps({"access_token": token()})

            async def goes_on() -> bool:
                try:
                    await producer.send_and_wait(topic, b"3", partition=0)
                except KafkaError:
                    return False
                return any(conn._token in there.body for conn in producer.client._conns.values())

            await eventually(goes_on, timeout_s=20)
    assert live_security(settings).told() == []


async def test_a_clock_that_is_ahead_refuses_no_token_that_the_broker_takes(
    kafka: SecureKafka, base: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(token(lasts_s=60))
    monkeypatch.setitem(Tokens.__init__.__kwdefaults__, "clock_s", lambda: 1e11)
    assert await require_reach(by_token(kafka, base, file)) == ()


def rule(name: str, pattern: str, host: str, operation: str, permission: str) -> AclBinding:
    return AclBinding(
        *(ResourceType.TOPIC, name, ResourcePatternType[pattern], "User:ANONYMOUS", host),
        *(AclOperation[operation], AclPermissionType[permission]),
    )


async def test_rights_are_what_brokers_make_of_prefixes_hosts_and_denials(
    settings: Settings, tmp_path: Path
) -> None:
    async with guarded_kafka(settings, tmp_path) as guarded:
        await ensure_topics(guarded, [REQUESTS, RESULTS, TOKENS])
        requests, results, tokens = (guarded.topic(one.name) for one in (REQUESTS, RESULTS, TOKENS))
        rules = [
            rule(guarded.namespace, "PREFIXED", "*", "WRITE", "ALLOW"),
            rule(results[:-2], "PREFIXED", "127.0.0.1", "WRITE", "DENY"),
            rule(results, "LITERAL", "*", "READ", "ALLOW"),
            rule(tokens, "LITERAL", "10.9.8.7", "READ", "ALLOW"),
            rule(tokens, "LITERAL", "10.9.8.7", "WRITE", "DENY"),
            rule("*", "LITERAL", "*", "DESCRIBE_CONFIGS", "ALLOW"),
        ]
        admin = AdminClient({"bootstrap.servers": guarded.kafka, "log_level": 0})
        for made in admin.create_acls(rules).values():
            made.result(20)
        wanted = {
            requests: {"Write", "Describe", "DescribeConfigs"},
            results: {"Read", "Describe", "DescribeConfigs"},
            tokens: {"Write", "Describe", "DescribeConfigs"},
        }

        async def are_told() -> bool:
            asked = [Resource("topic", name) for name in wanted]
            found = await granted(guarded, asked)
            return {one.name: set(told or ()) for one, told in found.items()} == wanted

        await eventually(are_told, timeout_s=10)
