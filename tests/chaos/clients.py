"""Who asks and waits for an answer: the command line, and a product that shows it as it comes."""

from __future__ import annotations

import itertools

from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.bus.token_reader import Ended, StartedAnew, Text, TokenReader
from millstream.streams.settings import Settings
from tests.chaos.load import publish_one
from tests.chaos.model_server import NOTHING, expected_answer
from tests.e2e.programs import as_client, run
from tests.harness.audit import Asked
from tests.services.users import acting_as


class Clients:
    """Clients of a deployment, one request each. `faults` holds what no client should see."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._numbers = itertools.count()
        self.asked: list[Asked] = []
        self.faults: list[str] = []

    async def submit(self) -> None:
        """Ask with `millstream submit`, which is to print the answer and end with 0."""
        one = self._one()
        told = await run(
            as_client(self._settings),
            "submit", one.request_id, "--user", one.user_id, "--session", one.session_id,
            "--request-id", one.request_id,
        )  # fmt: skip
        if told.code != 0 or told.out.strip() != one.answer:
            self.faults.append(f"`submit` ended with {told.code}: {told.out!r} {told.err!r}")

    async def read(self) -> None:
        """Publish a request, and read its text as a product would: it may not start anew."""
        one = self._one()
        async with (
            KafkaBus(acting_as(self._settings, "product")) as bus,
            TokenReader(bus, one.user_id, one.request_id) as reader,
        ):
            await publish_one(self._settings, one)
            pieces = [piece async for piece in reader]
        text = "".join(piece.text for piece in pieces if isinstance(piece, Text))
        ended = pieces[-1]
        if any(isinstance(piece, StartedAnew) for piece in pieces):
            self.faults.append(f"{one.request_id} started anew before its reader")
        if not isinstance(ended, Ended) or text != one.answer:
            self.faults.append(f"the reader of {one.request_id} was shown {text!r}")

    def _one(self) -> Asked:
        name = f"client-{next(self._numbers)}"
        one = Asked(name, name, "s", refused=False, answer=expected_answer(name, NOTHING))
        self.asked.append(one)
        return one
