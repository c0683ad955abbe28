"""What is wrong with an app, all of it at once; and its parts, where nothing is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from math import isfinite
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from millstream.agents.factory import AgentFactory, ResolveModel
from millstream.agents.loop.telling.listeners import Listener
from millstream.agents.mcp.server import McpServer
from millstream.agents.mcp.tools import McpTools
from millstream.agents.middlewares.build import MiddlewareFactory, check_names
from millstream.agents.models.known.windows import WindowOf, window_of, windows_of_own
from millstream.agents.models.resolve import MakeModel, resolve_model
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.agents.tools import ToolRegistry, built_in_tools
from millstream.middleware.base import AgentMiddleware
from millstream.middleware.pipeline import MakeLayer, build_pipeline
from millstream.middleware.policy import Policy
from millstream.schemas.base import Event, words_of_problem
from millstream.schemas.endpoints import ModelEndpoint
from millstream.schemas.errors import Misconfigured
from millstream.schemas.reasons import words_of
from millstream.streams.apps.app import App, AppParts
from millstream.streams.settings import OWN_MODELS, ModelName, Settings, own_environment
from millstream.streams.template_files import load_template

__all__ = ["parts_of", "resolving", "shown_path", "windows"]

T = TypeVar("T")

NAME_CHARS_MAX: Final = 64
_SHOWN_CHARS_MAX: Final = 60

_MODEL_NAME: Final = TypeAdapter[str](ModelName)


def parts_of(app: App | None) -> AppParts:
    """Give what a worker takes from an app; without one, what is built in.

    Raises `Misconfigured`, a line for each mistake, with the file and the field.
    """
    if app is None:
        return AppParts()
    if not isinstance(app, App):
        raise Misconfigured(f"an app is an `App`, or none, not {_shown(app)}")
    checks = _Checks(app)
    parts = checks.parts()
    if checks.faults:
        raise Misconfigured("\n".join(checks.faults))
    return parts


def resolving(settings: Settings, app: AppParts) -> ResolveModel:
    """Give what turns names into models: those of the app and of the settings, and all others.

    A server that the settings name comes before the app's of the same name.
    """
    endpoints = {**app.endpoints, **settings.model_endpoints}
    return partial(
        resolve_model, endpoints=endpoints, own=app.models, scripted=settings.scripted_model
    )


def windows(settings: Settings, app: AppParts, *, with_own: bool = True) -> WindowOf:
    """Give what tells how much a model reads and writes, by the names that `resolving` resolves.

    `with_own`: each of the app's own models is made once, to read its profile.
    """
    return partial(
        window_of,
        endpoints={**app.endpoints, **settings.model_endpoints},
        own=windows_of_own(app.models) if with_own else {},
    )


class _Checks:
    """Takes an app apart, and gathers what is wrong with it."""

    def __init__(self, app: App) -> None:
        self.faults: list[str] = []
        self._app = app
        self._file = shown_path(app.file)

    def parts(self) -> AppParts:
        name = self._app.name
        if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS_MAX:
            self._fault("name", f"must be a text of 1 to {NAME_CHARS_MAX} characters")
        tools = self._tools()
        mcp = self._mcp()
        mcp.attach(tools)
        models, endpoints = self._models()
        return AppParts(
            name=str(name),
            templates=self._templates(tools),
            agent_middlewares=self._agent_middlewares,
            tools=tools,
            mcp=mcp,
            layers=self._layers(),
            listeners=self._listeners(),
            models=models,
            endpoints=endpoints,
            policy_file=self._policy(),
        )

    def _tools(self) -> ToolRegistry:
        registry = ToolRegistry(built_in_tools() if self._app.built_in else ())
        for where, tool in self._each("tools", self._app.tools):
            self._tried(where, partial(registry.register, tool), tool)
        return registry

    def _mcp(self) -> McpTools:
        servers: list[McpServer] = []
        for where, given in self._each("mcp_servers", self._app.mcp_servers):
            if isinstance(given, McpServer):
                servers.append(given)
            else:
                self._fault(where, f"must be an McpServer, not {_shown(given)}")
        make = partial(McpTools, servers, environment=own_environment())
        return self._tried("mcp_servers", make, servers) or McpTools((), environment={})

    def _templates(self, tools: ToolRegistry) -> tuple[AgentTemplate, ...]:
        built_in = BUILT_IN_TEMPLATES if self._app.built_in else ()
        factory = AgentFactory(templates=built_in, tools=tools, middlewares=self._agent_middlewares)
        own_names = {template.name for template in built_in}
        found = {(template.name, template.version): template for template in built_in}
        for where, given in self._each("templates", self._app.templates):
            for template, file in self._template(where, given):
                key = (template.name, template.version)
                if template.name in own_names:
                    words = f"a template called {template.name!r} is built in: rename this one"
                    self._fault("name" if file else where, words, file)
                    continue
                if found.setdefault(key, template) != template:
                    words = (
                        f"template {template.name!r} has another content as version "
                        f"{template.version!r} above: give this one another version, or rename it"
                    )
                    self._fault("version" if file else where, words, file)
                    continue
                self._tried(
                    "" if file else f"{where} {template.name!r}",
                    partial(factory.register, template),
                    template.name,
                    file,
                )
        return tuple(found.values())

    def _template(self, where: str, given: Any) -> Iterator[tuple[AgentTemplate, str | None]]:
        if isinstance(given, AgentTemplate):
            yield given, None
        elif isinstance(given, str | Path):
            path = self._app.file.parent / given
            template = self._tried(where, lambda: load_template(path), given)
            if template is not None:
                yield template, shown_path(path)
        else:
            self._fault(where, f"must be an AgentTemplate or the path of one, not {_shown(given)}")

    @cached_property
    def _agent_middlewares(self) -> dict[str, MiddlewareFactory]:
        makers: dict[str, MiddlewareFactory] = {}
        given: Any = self._app.agent_middlewares
        if not isinstance(given, Mapping):
            self._fault("agent_middlewares", f"must be a dict, not {_shown(given)}")
            return makers
        for name, make in given.items():
            where = f"agent_middlewares[{name!r}]"
            if not callable(make):
                words = f"must make a middleware, a class for instance, not {_shown(make)}"
                self._fault(where, words)
            elif self._tried(where, partial(check_names, {name: make}), make) is not None:
                makers[name] = make
        return makers

    def _layers(self) -> tuple[MakeLayer, ...]:
        makers: list[MakeLayer] = []
        for where, given in self._each("layers", self._app.layers):
            if not callable(given):
                self._fault(where, f"must make a layer, a class for instance, not {_shown(given)}")
                continue
            if self._tried(where, partial(_made_layer, given), given) is not None:
                makers.append(given)
        try:
            build_pipeline(Policy(), layers=makers)
        except Misconfigured as error:
            self._fault("layers", str(error))
        return tuple(makers)

    def _listeners(self) -> tuple[Listener, ...]:
        given = self._each("listeners", self._app.listeners)
        made = (
            self._tried(where, partial(_as_listener, listener), listener)
            for where, listener in given
        )
        return tuple(listener for listener in made if listener is not None)

    def _models(self) -> tuple[dict[str, MakeModel], dict[str, ModelEndpoint]]:
        makers: dict[str, MakeModel] = {}
        endpoints: dict[str, ModelEndpoint] = {}
        if not isinstance(self._app.models, dict):
            self._fault("models", f"must be a dict, not {_shown(self._app.models)}")
            return makers, endpoints
        for name, given in self._app.models.items():
            where = f"models[{name!r}]"
            try:
                _MODEL_NAME.validate_python(name, strict=True)
                if callable(given):
                    makers[name] = given
                else:
                    endpoints[name] = ModelEndpoint.model_validate(given)
            except ValidationError as error:
                for problem in error.errors():
                    at = ".".join(str(part) for part in problem["loc"])
                    self._fault(f"{where}.{at}" if at else where, words_of_problem(problem))
                continue
            if name.partition(":")[0] in OWN_MODELS:
                self._fault(where, "is a name of Millstream's own: choose another")
        return makers, endpoints

    def _policy(self) -> Path | None:
        if self._app.policy is None:
            return None
        path = self._app.file.parent / self._app.policy
        if not path.is_file():
            self._fault("policy", f"there is no file {shown_path(path)}")
        return path

    def _each(self, field: str, given: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(given, list | tuple):
            yield from ((f"{field}[{number}]", one) for number, one in enumerate(given))
        else:
            self._fault(field, f"must be a list, not {_shown(given)}")

    def _fault(self, field: str, words: str, file: str | None = None) -> None:
        told = (file or self._file, field, words)
        self.faults.append(": ".join(part for part in told if part))

    def _tried(
        self, where: str, do: Callable[[], T], what: Any, file: str | None = None
    ) -> T | None:
        """Do what an app's own code may fail at; gives `None` where it does."""
        try:
            return do()
        except Misconfigured as error:
            for line in str(error).splitlines():
                self._fault(where, line, file)
        except Exception as error:  # noqa: BLE001  whatever an app's code raises
            words = f"{type(error).__name__}: {words_of(error)}".removesuffix(": ")
            self._fault(where, f"{_shown(what)} cannot be used: {words}", file)
        return None


def shown_path(path: Path) -> str:
    """Give a path as short as it can be told: from here, if it is below."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _made_layer(make: Callable[[], Any]) -> AgentMiddleware:
    """Make a layer. Raises `Misconfigured` where a lane could not ask, order or restore it."""
    layer = make()
    if not isinstance(layer, AgentMiddleware):
        message = f"{_shown(make)} makes {_shown(layer)}, which is no AgentMiddleware"
        raise Misconfigured(message)
    if not all(hasattr(layer, each) for each in ("name", "priority", "enabled")):
        message = f"{_shown(make)} needs a `name`, a `priority`, and super().__init__()"
        raise Misconfigured(message)
    wrong = [words for words, holds in _layer_rules(layer) if not holds]
    if wrong:
        raise Misconfigured("\n".join(f"{_shown(make)}: {words}" for words in wrong))
    return layer


def _layer_rules(layer: Any) -> Iterator[tuple[str, bool]]:
    """Give what must hold of a layer's declarations: all of them reach records or are compared."""
    name, priority, folds, history = layer.name, layer.priority, layer.folds, layer.history_ms
    yield (
        f"`name` must be a text of 1 to {NAME_CHARS_MAX} printable characters, not {_shown(name)}",
        isinstance(name, str) and 0 < len(name) <= NAME_CHARS_MAX and name.isprintable(),
    )
    yield (
        f"`priority` must be a number, not {_shown(priority)}",
        type(priority) in {int, float} and isfinite(priority),
    )
    yield (
        f"`folds` must be a set of event types, as frozenset({{AgentResult}}), not {_shown(folds)}",
        isinstance(folds, set | frozenset | list | tuple)
        and all(isinstance(one, type) and issubclass(one, Event) for one in folds),
    )
    yield (
        f"`history_ms` must be milliseconds, a whole number from 0 on, not {_shown(history)}",
        type(history) is int and history >= 0,
    )


def _as_listener(given: Any) -> Listener:
    return given if isinstance(given, Listener) else Listener(given)


def _shown(value: Any) -> str:
    name = getattr(value, "__name__", None)
    text = name if isinstance(name, str) else repr(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else text[: _SHOWN_CHARS_MAX - 1] + "…"
