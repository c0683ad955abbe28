"""Who a program connects as where the tests run on a secure Kafka: a user with its role's rights.

Tests make topics, write odd records and look at what came of it as `admin`: so are the settings of
the fixtures. What plays a program of a deployment runs by `acting_as`, or `variables_as` where it
is a process: as its role's user, who has the rights of `millstream topics acls --optional`, on the
test's own namespace and no other, and nothing else. Where Kafka knows no users, both do nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from millstream.streams.broker.rights.acls import grants
from millstream.streams.broker.rights.granting import grant
from millstream.streams.broker.rights.users import USERS, User
from millstream.streams.settings import Settings

__all__ = [
    "ADMIN",
    "acting_as",
    "plaintext",
    "secured",
    "secured_variables",
    "user_of_command",
    "variables_as",
]

ADMIN: Final = "admin"

_FILE = "client.properties"
_CONFIG, _NAME = "MILLSTREAM_KAFKA_CONFIG", "MILLSTREAM_REDIS_USERNAME"
_PASSWORD = "MILLSTREAM_REDIS_PASSWORD_FILE"  # noqa: S105  a variable's name
_OF_COMMANDS: Mapping[str, User | Literal["admin"]] = {
    **dict.fromkeys(("submit", "chat"), "client"),
    **dict.fromkeys(("history", "tail"), "auditor"),
    **dict.fromkeys(("worker", "up", "dev"), "worker"),
    # One program that does what all roles do.
    "demo": ADMIN,
}
_granted: set[tuple[str, str, tuple[str, ...], User]] = set()


def secured(settings: Settings, credentials: Path) -> Settings:
    """Give the settings of `admin`, by the launcher's folder of credentials."""
    password = (credentials / ADMIN / "redis-password").read_text(encoding="utf-8")
    url = urlsplit(settings.redis_url)
    return settings.model_copy(
        update={
            "kafka_config": credentials / ADMIN / _FILE,
            "redis_url": url._replace(netloc=f"{ADMIN}:{password}@{url.netloc}").geturl(),
        }
    )


def plaintext(settings: Settings, **services: str) -> Settings:
    """Give settings for a Kafka, or a Redis, of a test's own that knows no users."""
    dropped = {"kafka_config"} if "kafka" in services else set()
    dropped |= {"redis_username", "redis_password_file"} if "redis_url" in services else set()
    kept = {name: getattr(settings, name) for name in settings.model_fields_set - dropped}
    return Settings.model_construct(**kept | services)


def acting_as(settings: Settings, user: User) -> Settings:
    """Give the settings of a program that runs as a user, who is given its rights."""
    credentials = _credentials(settings.kafka_config)
    if credentials is None:
        return settings
    _have_rights(settings, credentials, user)
    own = credentials / user
    update: dict[str, object] = {"kafka_config": own / _FILE}
    # A Redis of a test's own knows no users.
    if "@" in settings.redis_url or settings.redis_username is not None:
        update |= {
            "redis_url": _without_user(settings.redis_url),
            "redis_username": user,
            "redis_password_file": own / "redis-password",
        }
    return settings.model_copy(update=update)


def secured_variables(settings: Settings) -> dict[str, str]:
    """Give what variables of commands are made from, once their users have their rights."""
    if _credentials(settings.kafka_config) is None:
        return {}
    for user in ("client", "worker", "auditor", "operator"):
        acting_as(settings, user)
    return {_CONFIG: str(settings.kafka_config)}


def variables_as(environment: Mapping[str, str], user: User | Literal["admin"]) -> dict[str, str]:
    """Give the variables of a process that runs as a user, where they do not name another user."""
    config = Path(environment.get(_CONFIG, ""))
    credentials = _credentials(config)
    if credentials is None or config.parent.name != ADMIN:
        return dict(environment)
    own = credentials / user
    found = {**environment, _CONFIG: str(own / _FILE)}
    if (own / "redis-password").exists():
        found |= {_NAME: user, _PASSWORD: str(own / "redis-password")}
    return found


def user_of_command(*words: str) -> User | Literal["admin"]:
    """Tell whose command a command line is."""
    return _OF_COMMANDS.get(words[0] if words else "", "operator")


def _credentials(config: Path | None) -> Path | None:
    """Give the launcher's folder of credentials that a file of properties is in, if it is."""
    if config is None or not (config.parent.parent / "ca-key.pem").exists():
        return None
    return config.parent.parent


def _have_rights(settings: Settings, credentials: Path, user: User) -> None:
    known = (settings.kafka, settings.namespace, settings.chain_cuts, user)
    if known in _granted:
        return
    admin = settings.model_copy(update={"kafka_config": credentials / ADMIN / _FILE})
    rules = grants(settings, USERS[user], f"User:{user}", optional=True)
    # On an event loop of its own: fixtures without one, and tests on theirs, ask for it.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, grant(admin, rules)).result()
    _granted.add(known)


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
