"""Who may connect to the launcher's services, and the files that say by what."""

from __future__ import annotations

import datetime as dt
import os
import re
from pathlib import Path

from millstream.infra.kafka.config import Listener, NodeSpec, server_properties
from millstream.infra.kafka.security import Security
from millstream.infra.redis import users_of
from millstream.infra.secure.certificates import LIFETIME, now
from millstream.infra.secure.credentials import ADMIN, BROKER, ROLES, Credentials
from millstream.infra.secure.files import write_private

USERS = (BROKER, ADMIN, *ROLES)


def _modes(folder: Path) -> dict[str, int]:
    return {
        str(one.relative_to(folder)): one.stat().st_mode & 0o777
        for one in (folder, *folder.rglob("*"))
    }


def test_all_files_are_their_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        found = Credentials.of(tmp_path, now())
        found.renew(1, now())
    finally:
        os.umask(before)
    for name, mode in _modes(found.folder).items():
        is_folder = (found.folder / name).is_dir()
        assert mode == (0o700 if is_folder else 0o600), name


def test_a_file_that_others_could_read_is_replaced_by_one_that_they_cannot(tmp_path: Path) -> None:
    at, left = tmp_path / "secret", tmp_path / ".secret.partial"
    for one in (at, left):
        one.write_text("old")
        one.chmod(0o644)
    write_private(at, "new")
    assert (at.read_text(), at.stat().st_mode & 0o777) == ("new", 0o600)
    assert not left.exists()


def test_passwords_stay_over_restarts_and_differ(tmp_path: Path) -> None:
    first = Credentials.of(tmp_path, now())
    told = [one for user in USERS for one in (first.password(user), first.redis_password(user))]
    again = Credentials.of(tmp_path, now())
    assert told == [
        one for user in USERS for one in (again.password(user), again.redis_password(user))
    ]
    assert len(set(told)) == len(told)


def test_properties_are_javas_also_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / r"back\slash, ä and 🔑"
    found = Credentials.of(folder, now())
    text = found.properties_file("worker").read_bytes().decode("ascii")
    found_at = re.search(r"^ssl.truststore.location=(.*)$", text, re.MULTILINE)
    assert found_at is not None
    # As `java.util.Properties` reads it.
    plain = re.sub(
        r"\\(?:u(?P<code>[0-9a-f]{4})|(?P<other>.))",
        lambda one: chr(int(one["code"], 16)) if one["code"] else one["other"],
        found_at[1],
    )
    assert plain.encode("utf-16", "surrogatepass").decode("utf-16") == str(folder / "secure/ca.pem")
    assert f'username="worker" password="{found.password("worker")}";' in text


def test_a_certificate_is_renewed_when_it_is_due_or_not_ours_and_not_before(tmp_path: Path) -> None:
    found, began = Credentials.of(tmp_path, now()), now()
    assert found.renew(1, began)
    store = found.key_store(1).read_text()
    assert not found.renew(1, began + LIFETIME / 2)
    assert found.key_store(1).read_text() == store
    assert found.renew(1, began + LIFETIME * 0.7)
    assert found.renew(1, began + dt.timedelta(days=1), always=True)
    (found.folder / "ca.pem").unlink()
    assert found.renew(1, began)


def test_every_listener_of_clients_has_tls_and_a_login_and_the_controllers_is_on_loopback(
    tmp_path: Path,
) -> None:
    security = Security(Credentials.of(tmp_path, now()))
    spec = NodeSpec(1, 2001, ((1, 2002),), (Listener("PROXIED", 2003, 2004),))
    text = server_properties(spec, security.properties(1, spec.listeners))
    lines = dict(line.split("=", 1) for line in text.splitlines())
    assert lines["listener.security.protocol.map"] == (
        "CLIENT:SASL_SSL,PROXIED:SASL_SSL,CONTROLLER:SASL_PLAINTEXT"
    )
    assert "CONTROLLER://127.0.0.1:2002" in lines["listeners"]
    assert lines["listener.name.proxied.ssl.keystore.location"] == "../secure/kafka-1.pem"
    assert "listener.name.proxied.scram-sha-512.sasl.jaas.config" in lines
    assert lines["super.users"] == "User:broker;User:admin"
    assert "allow.everyone.if.no.acl.found" not in lines


def test_redis_has_no_user_without_a_password_and_no_password_in_its_file(tmp_path: Path) -> None:
    found = Credentials.of(tmp_path, now())
    text = users_of(found)
    assert text.splitlines()[0] == "user default off resetchannels -@all"
    assert "nopass" not in text
    assert not [user for user in USERS if found.redis_password(user) in text]
    assert "user upstream" not in text
