"""The list of all commands, in the order of the help: each is imported once it is called for."""

from __future__ import annotations

from typing import Final

from millstream.gateway.commands.group import Listed

__all__ = ["COMMANDS"]

COMMANDS: Final = (
    Listed(
        "new",
        "apps.new:new",
        "Make a folder with an app: a template, a tool, a test and a policy.",
    ),
    Listed(
        "dev",
        "apps.dev:dev",
        "Start Kafka, Redis and a worker with your app, and take changes over as you save them.",
    ),
    Listed(
        "chat",
        "apps.chat:chat",
        "Talk to an agent: its answers as they are written, its calls of tools, and what each "
        "cost.",
    ),
    Listed(
        "up",
        "up:up",
        "Start Kafka, Redis and a worker, and run until Ctrl-C stops them all.",
    ),
    Listed(
        "worker",
        "worker:worker",
        "Work until Ctrl-C, SIGTERM or SIGHUP, which let what runs come to its end.",
    ),
    Listed(
        "drain",
        "control.drain:drain",
        "Tell a worker to hand over what it has and end, as SIGTERM does, from anywhere.",
    ),
    Listed(
        "submit",
        "submit:submit",
        "Publish a request and show the answer as it is written.",
    ),
    Listed(
        "cancel",
        "control.cancel:cancel",
        "End a request, or all of a session that has arrived.",
    ),
    Listed(
        "pause",
        "control.pause:pause",
        "Let a request, or all of a session, wait until it is resumed.",
    ),
    Listed(
        "resume",
        "control.pause:resume",
        "Let a request, or a session, go on that was paused.",
    ),
    Listed(
        "tail",
        "tail:tail",
        "Follow a topic until Ctrl-C: committed records only, in the order of each partition.",
    ),
    Listed(
        "history",
        "history:history",
        "Replay what the topics hold, oldest first, in the order of the broker's time (UTC).",
    ),
    Listed(
        "topics",
        "topics:topics_app",
        "Show the topics of the catalogue and how the broker's differ. Changes none that exists.",
    ),
    Listed(
        "doctor",
        "doctor:doctor",
        "Look at everything that Millstream needs, and say what is wrong and what to do.",
    ),
    Listed(
        "demo",
        "demo:demo",
        "Show the whole path on this machine: start everything, ask, answer, account, replay, "
        "stop.",
    ),
    Listed(
        "dead-letters",
        "dead_letters:dead_letters_app",
        "Records that could not be read: see them, and put them back, once.",
    ),
    Listed(
        "templates",
        "templates:templates_app",
        "Templates for every worker, at run time: apply, see and retire them.",
    ),
    Listed(
        "runs",
        "runs.app:runs_app",
        "Runs that wait or are under way, and what keeps them from going on.",
    ),
    Listed(
        "sessions",
        "sessions.app:sessions_app",
        "Sessions of users: create, read, change and end them.",
    ),
)
"""A test holds each `about` equal to the first paragraph of the command's own help."""
