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
from millstream.streams.policy_file import load_policy
from millstream.streams.settings import Settings
from millstream.streams.templates.records import template_of
from millstream.streams.templates.registry import TemplateRegistry

__all__ = ["Matched", "globs_without_match", "idle_globs"]


@dataclass(frozen=True, slots=True)
class Matched:
    """What there is for the globs of a policy to match.

    `providers` are what stands before the colon of a model's name, or all of it: which models a
    provider has, nobody here knows.
    """

    templates: Collection[str]
    permissions: Collection[str]
    providers: Collection[str]


async def globs_without_match(settings: Settings) -> tuple[str, ...]:
    """Give the globs of the policy which match nothing of the app or of what was applied.

    Raises `Misconfigured` for an app or a policy that cannot be used.
    """
    parts = parts_of(None if settings.app is None else load_app(AppName.parse(settings.app)))
    policy = load_policy(settings, parts.policy_file)
    if not policy.roles:
        return ()
    templates = (*parts.templates, *await _applied())
    there = Matched(
        templates={one.name for one in templates},
        permissions={name for one in templates for name in one.permissions},
        providers=provider_names((*parts.models, *parts.endpoints, *settings.model_endpoints)),
    )
    return idle_globs(policy, there)


def idle_globs(policy: Policy, there: Matched) -> tuple[str, ...]:
    """Give each glob that matches nothing, as `roles.NAME.FIELD: GLOB`."""
    known: Mapping[GlobField, Collection[str]] = {
        "templates": there.templates,
        "permissions": there.permissions,
    }
    return (*_of_names(policy, known), *_of_models(policy, there.providers))


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


async def _applied() -> tuple[AgentTemplate, ...]:
    """Give the templates that were applied; none where Kafka does not answer, which is told."""
    try:
        settings = settings_for_client()
        await partition_counts(settings, [settings.topic(TEMPLATES.name)])
        applied = await TemplateRegistry(settings).all()
        return tuple(template_of(one.event) for one in applied if not one.event.retired)
    except MillstreamError:
        return ()
