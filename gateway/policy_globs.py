"""Globs of a policy that match nothing: a name that is misspelt there permits nothing, silently."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from millstream.agents.models.resolve import provider_names
from millstream.agents.templates.template import AgentTemplate
from millstream.gateway.client_settings import settings_for_client
from millstream.middleware.policy import GlobField, Policy
from millstream.schemas.errors import MillstreamError
from millstream.schemas.topics import TEMPLATES
from millstream.streams.apps.checks import parts_of
from millstream.streams.apps.loading import load_app
from millstream.streams.apps.name import AppName
from millstream.streams.broker.topic_admin import partition_counts
from millstream.streams.consumer.members import lane_members
from millstream.streams.policy_file import load_policy
from millstream.streams.settings import Settings
from millstream.streams.templates.records import template_of
from millstream.streams.templates.registry import TemplateRegistry

__all__ = ["Matched", "globs_without_match", "idle_globs"]


@dataclass(frozen=True, slots=True)
class Matched:
    """What there is for the globs of a policy to match.

    `providers` are what stands before the colon of a model's name, or all of it: which models a
    provider has, nobody here knows. `None` is: not known, as of the app of workers elsewhere.
    """

    templates: Collection[str]
    permissions: Collection[str] | None
    providers: Collection[str] | None

    def beside(self, served: Collection[str]) -> Matched:
        """Give it with templates that live workers say they have.

        Where those are more, their app is another one: what else it has, they do not say.
        """
        if not set(served) - set(self.templates):
            return self
        return Matched({*self.templates, *served}, permissions=None, providers=None)


async def globs_without_match(settings: Settings) -> tuple[str, ...]:
    """Give the globs of the policy which match nothing of the app, or of what is on Kafka.

    That is what was applied, and what live workers say that they have.

    Raises `Misconfigured` for an app or a policy that cannot be used.
    """
    parts = parts_of(None if settings.app is None else load_app(AppName.parse(settings.app)))
    policy = load_policy(settings, parts.policy_file)
    if not policy.roles:
        return ()
    applied, served = await _on_kafka()
    templates = (*parts.templates, *applied)
    there = Matched(
        templates={one.name for one in templates},
        permissions={name for one in templates for name in one.permissions},
        providers=provider_names((*parts.models, *parts.endpoints, *settings.model_endpoints)),
    )
    return idle_globs(policy, there.beside(served))


def idle_globs(policy: Policy, there: Matched) -> tuple[str, ...]:
    """Give each glob that matches nothing, as `roles.NAME.FIELD: GLOB`."""
    known: dict[GlobField, Collection[str]] = {"templates": there.templates}
    if there.permissions is not None:
        known["permissions"] = there.permissions
    models = () if there.providers is None else _of_models(policy, there.providers)
    return (*_of_names(policy, known), *models)


def _of_names(policy: Policy, known: Mapping[GlobField, Collection[str]]) -> Iterator[str]:
    for field, names in known.items():
        for role, glob in policy.globs(field):
            # `*` is meant for what is yet to come.
            if glob != "*" and not any(fnmatch.fnmatchcase(name, glob) for name in names):
                yield f"roles.{role}.{field}: {glob!r}"


def _of_models(policy: Policy, providers: Collection[str]) -> Iterator[str]:
    for role, glob in policy.globs("models"):
        provider = glob.partition(":")[0]
        if not any(fnmatch.fnmatchcase(one, provider) for one in providers):
            yield f"roles.{role}.models: {glob!r}"


async def _on_kafka() -> tuple[tuple[AgentTemplate, ...], frozenset[str]]:
    """Give the templates that were applied, and the names of those that live workers have.

    None of both where Kafka does not answer, which is told.
    """
    try:
        settings = settings_for_client()
        await partition_counts(settings, [settings.topic(TEMPLATES.name)])
        applied = await TemplateRegistry(settings).all()
        members = await lane_members(settings)
    except MillstreamError:
        return (), frozenset()
    served = [one.can_run.names for one in members if one.can_run is not None]
    return (
        tuple(template_of(one.event) for one in applied if not one.event.retired),
        frozenset[str]().union(*served),
    )
