"""Every setting, typed, from environment variables that begin with `MILLSTREAM_`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsConfigDict, SettingsError

from millstream.schemas.base import words_of_problem
from millstream.schemas.endpoints import BY_LANGCHAIN, ModelEndpoint
from millstream.schemas.errors import Misconfigured
from millstream.streams.connection_settings import BrokerList, ConnectionSettings, broker_list
from millstream.streams.properties_file import read_properties
from millstream.streams.topic_settings.checks import require_sound
from millstream.streams.topic_settings.retention import Retention
from millstream.streams.topic_settings.values import read_topics_file

Role = Literal["lanes", "views"]

_URLS = frozenset({"redis_url", "kafka_sasl_oauthbearer_token_endpoint_url"})
OWN_MODELS = frozenset({"local", "scripted", BY_LANGCHAIN})

ModelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*(:.+)?$", max_length=256)]
"""All models of a name before the colon, or one of them."""


class Settings(ConnectionSettings):
    """The settings of one process. Names in the environment: `MILLSTREAM_` and the field's name."""

    model_config = SettingsConfigDict(env_prefix="MILLSTREAM_", frozen=True, extra="forbid")

    kafka: BrokerList = "127.0.0.1:9092"
    """`bootstrap.servers`: brokers to ask first, `host:port`, comma-separated."""
    redis_url: str = "redis://127.0.0.1:6379/0"
    """The Redis that holds the view of sessions: `redis://HOST:PORT/DATABASE`,
    `redis+cluster://HOST:PORT,…` or `redis+sentinel://HOST:PORT,…/SERVICE`; `rediss` for TLS."""
    namespace: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$")] = "millstream"
    """Prefix of every topic, consumer group, transactional id and Redis key."""
    data_dir: Path = Path(".millstream/data")
    """Where `up` keeps the data of Kafka and Redis, and a worker what it can lose; none given:
    `.millstream/data` of the checkout, or, installed, of the working folder or its nearest parent
    that has a `.millstream`."""
    cache: Path | None = None
    """Where the dev launcher keeps what it downloads; none given: `.millstream/cache` of the
    checkout, or `millstream` in the user's cache (`$XDG_CACHE_HOME`, else `~/.cache`)."""

    partitions: Annotated[int, Field(ge=1, le=1024)] = 4
    """Partitions of every topic. It is never to be changed: a user's records would no longer meet
    at one partition, and workers refuse topics that have another number."""
    replication: Annotated[int, Field(ge=1, le=9)] | None = None
    """Replicas of every topic; none given: three, or as many as there are brokers. With three or
    more, two must have a record before it counts (`min.insync.replicas`)."""
    topics: dict[str, dict[str, bool | int | float | str | None]] = {}  # noqa: RUF012  pydantic copies it
    """Retention, sizes and replicas of single topics, as JSON, by Kafka's names:
    `{"tokens": {"retention.ms": 3600000}, "*": {"segment.bytes": null}}`. `*` is all topics, `null`
    leaves a value to the broker. [What depends on each](topics.md)."""
    topics_file: Path | None = None
    """The same as a file of YAML; what `MILLSTREAM_TOPICS` says of a topic's value wins over it."""

    policy_file: Path | None = None
    """Permissions, limits, caps and prices, in YAML; none given: all may use every template."""
    chain_cuts: tuple[str, ...] = ()
    """Layers before which the chain is cut into a stage of its own, e.g. `["executor"]`."""
    app: str | None = None
    """The app: `module:name`, or the path of its file, perhaps with `:name` behind it."""
    input_bytes_max: Annotated[int, Field(ge=1, le=900_000)] = 262_144
    """Longest input of a request, in bytes of UTF-8."""
    default_model: str = "local"
    """The model of templates that name none: `local`, `provider:name` or, for tests, `scripted`."""
    scripted_model: bool = False
    """Whether `scripted` is a model. For tests only: its input says which tools are called."""

    runs_in_flight_max: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Runs that one lane has in memory at once; what is more waits on the log."""
    runs_per_user_max: Annotated[int, Field(ge=1, le=100_000)] = 250
    """Runs that one user has in a lane's memory once half of it is taken."""
    park_after_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """A run that takes longer no longer holds its record: its request is parked on the log."""
    parked_max: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Requests of one partition that wait, parked on the log; while so many do, none is read."""
    waiting_per_user_max: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Of one user so many wait for their turn; what is more is left unread until there is room."""
    template_wait_s: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    """How long a request waits for a worker that has its template, if some worker has it.

    A run that was taken on waits for its own version without an end.
    """
    template_unknown_wait_s: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    """How long it waits for a template of which no worker has said that it has it; at most as long.

    In a rolling deploy, requests for a new template may come before the first worker that has it.
    """
    transactional_producers: Annotated[int, Field(ge=1, le=8)] = 3
    """Producers in rotation per lane. May differ between workers: a new owner fences all."""
    commit_records_max: Annotated[int, Field(ge=1, le=10_000)] = 500
    """Most records in one transaction."""
    commit_gather_s: Annotated[float, Field(ge=0, le=1)] = 0.05
    """The most that a commit waits for others to go with it; an idle lane never waits."""
    commit_timeout_s: Annotated[float, Field(gt=0, le=300)] = 30.0
    """A commit that takes longer has an unknown outcome: the lane is dropped."""
    dedup_window_s: Annotated[int, Field(ge=60, le=7 * 86_400)] = 86_400
    """How long a request id is remembered: within it, the same id gives the same one result."""
    dedup_ids_max: Annotated[int, Field(ge=1000, le=10_000_000)] = 500_000
    """Most ids that one lane remembers, at 142 bytes each. With more, they go of who has most."""
    sessions_in_memory: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Idle sessions that a lane keeps in memory, 3 kB each; others are read when asked for."""
    snapshot_records: Annotated[int, Field(ge=1, le=1_000_000)] = 5000
    """A lane takes a snapshot after so many records of what a restore reads; fewer, more often."""
    session_timeout_s: Annotated[float, Field(ge=6, le=300)] = 10.0
    """A worker that sends no heartbeat for so long loses its partitions; brokers take 6 or more."""
    revoke_grace_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """How long runs may go on when another worker is to have their partition; then they are cut."""
    shutdown_grace_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """How long runs may go on when a worker is told to stop; then they are left to others."""
    token_coalesce_s: Annotated[float, Field(ge=0, le=1)] = 0.025
    """After the first one, tokens are gathered for so long into one record."""
    agents_blocked_warn_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """Code of an agent that does not let others run for so long is named in the log and counted."""
    agents_blocked_max_s: Annotated[float, Field(gt=0, le=300)] = 5.0
    """After so long its event loop is given up: runs that wait for it are begun anew elsewhere."""
    model_endpoints: dict[ModelName, ModelEndpoint] = {}  # noqa: RUF012  pydantic copies it
    """Servers by the names of what they serve, as JSON: `{"vllm": {"base_url": "http://…/v1"}}`."""

    @field_validator("model_endpoints")
    @classmethod
    def _are_no_names_of_ours(cls, endpoints: dict[str, ModelEndpoint]) -> Any:
        taken = sorted({name.partition(":")[0] for name in endpoints} & OWN_MODELS)
        if taken:
            message = f"{taken[0]!r} is a name of Millstream's own: choose another"
            raise ValueError(message)
        return endpoints

    metrics_host: str = "127.0.0.1"
    """Address that `/metrics` and `/health` listen on; `0.0.0.0` for all."""
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """Port of `/metrics` and `/health`; 0: a free one, told at start."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    log_format: Literal["console", "json"] = "console"
    """Log lines for people, or one JSON object each."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Give what is shown of it: no password, also not that of a URL."""
        for name, value in super().__repr_args__():
            yield name, without_password(value) if name in _URLS and value else value

    def topic(self, name: str) -> str:
        """Give the physical name of a catalogue topic."""
        return f"{self.namespace}.{name}"

    @property
    def retention(self) -> Retention:
        """How long each topic keeps its records."""
        return Retention(self.topics)


def load_settings(**overrides: object) -> Settings:
    """Read the settings; `overrides` win over the environment.

    Raises `Misconfigured` that names each wrong variable, its value and what it should be.
    """
    _refuse_unknown_variables()
    try:
        settings = _with_named_servers(Settings(**overrides))  # type: ignore[arg-type]
    except SettingsError as error:
        named = re.search(r'field "(\w+)"', str(error))
        variable = f"MILLSTREAM_{named[1].upper()}" if named else "a MILLSTREAM_ variable"
        example = _JSON_EXAMPLES.get(named[1] if named else "", "")
        raise Misconfigured(f"{variable} must be JSON{example}") from error
    except ValidationError as error:
        lines = [
            f"MILLSTREAM_{'.'.join(str(part) for part in problem['loc']).upper()}: "
            f"{words_of_problem(problem)}{_shown(problem)}"
            for problem in error.errors()
        ]
        raise Misconfigured("; ".join(lines)) from error
    return _with_topics(settings)


_JSON_EXAMPLES = {
    "chain_cuts": ', for instance ["executor"]',
    "model_endpoints": ', for instance {"vllm": {"base_url": "http://10.0.0.5:8000/v1"}}',
    "topics": ', for instance {"tokens": {"retention.ms": 3600000}}',
}


def _with_named_servers(settings: Settings) -> Settings:
    """Take the brokers from the file of properties where no variable names them."""
    config = settings.kafka_config
    if config is None or "kafka" in settings.model_fields_set:
        return settings
    found = read_properties(config, named="MILLSTREAM_KAFKA_CONFIG")
    servers = (found.get("bootstrap.servers") or found.get("metadata.broker.list", "")).strip()
    if not servers:
        return settings
    try:
        return settings.model_copy(update={"kafka": broker_list(servers)})
    except ValueError as error:
        raise Misconfigured(f"bootstrap.servers in {config} {error}") from None


def _with_topics(settings: Settings) -> Settings:
    """Take in what the file says of topics. Raises `Misconfigured` for what cannot be."""
    topics = settings.topics
    if settings.topics_file is not None:
        of_file = read_topics_file(settings.topics_file)
        topics = {
            name: {**of_file.get(name, {}), **topics.get(name, {})}
            for name in {**of_file, **topics}
        }
        settings = settings.model_copy(update={"topics": topics})
    require_sound(
        topics,
        chain_cuts=settings.chain_cuts,
        dedup_window_s=settings.dedup_window_s,
        replication=settings.replication,
    )
    return settings


def without_password(url: str) -> str:
    """Give a URL for people to read: `***` stands for its password, and for what options hold."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    netloc = f"{name}{colon}{'***' if colon else ''}{at}{hosts}"
    query = re.sub(r"(password=)[^&]*", r"\1***", parts.query)
    return parts._replace(netloc=netloc, query=query).geturl()


def _shown(problem: ErrorDetails) -> str:
    # Who takes the name of a variable for a place for the key must not find it in a log.
    name = str(problem["loc"][0])
    held = name in {"model_endpoints", "redis_url"} or name.endswith(("_password", "_secret"))
    return "" if held else f" (it is {problem['input']!r})"


def _refuse_unknown_variables() -> None:
    """Name a misspelt variable: a limit that is silently not set is worse than no start."""
    known = {f"MILLSTREAM_{name.upper()}" for name in Settings.model_fields}
    unknown = sorted(
        name for name in os.environ if name.startswith("MILLSTREAM_") and name not in known
    )
    if not unknown:
        return
    nearest = get_close_matches(unknown[0], known, n=1)
    advice = f"; did you mean {nearest[0]}?" if nearest else "; unset it"
    raise Misconfigured(f"there is no setting {unknown[0]}{advice}")


def user_cache() -> Path:
    """Give the folder of this user's caches, by the XDG Base Directory Specification.

    Raises `RuntimeError` where no variable names one and the user has no home folder.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # By the specification a path that is relative is ignored.
    return named if named.is_absolute() else Path.home() / ".cache"


def own_environment() -> dict[str, str]:
    """Give this process's environment: for programs that get a part of it, as MCP servers do."""
    return dict(os.environ)


def child_environment(settings: Settings) -> dict[str, str]:
    """Give the environment of a child process that shall have these settings.

    It is our own, with a variable for each field of `settings` that was given a value: secrets are
    in variables, which other users cannot read, and never among its arguments.
    """
    given = settings.model_dump(mode="json", exclude_unset=True)
    for name in given:
        if isinstance(secret := getattr(settings, name), SecretStr):
            given[name] = secret.get_secret_value()
    named = {
        f"MILLSTREAM_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in given.items()
        if value is not None
    }
    return {**os.environ, **named}
