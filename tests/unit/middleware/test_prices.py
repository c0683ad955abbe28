"""Prices: published ones, a policy's own, and exact whole micros."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices.data import providers
from genai_prices.types import Usage as PublishedUsage

from millstream.middleware.policy import Policy
from millstream.middleware.prices import _MODELS_CACHED_MAX, PriceTable, Rates, rounded_up
from millstream.schemas.base import Usage
from tests.making import NOON_MS

USAGES = ((0, 0), (1, 1), (999, 77), (128_001, 5_000), (300_000, 12))
OWN = Policy.from_yaml(
    "prices: {local: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4},"
    " 'openai:gpt-4o-mini': {input_usd_per_mtok: 7, output_usd_per_mtok: 8}}",
    "p",
).prices


def cost_micros(rates: Rates, *calls: Usage) -> int:
    return rounded_up(sum(map(rates.nanos, calls)))


def cost(table: PriceTable, model: str, read: int, written: int) -> int | None:
    rates = table.rates(model, NOON_MS)
    usage = Usage(input_tokens=read, output_tokens=written)
    return None if rates is None else cost_micros(rates, usage)


def test_models_of_our_own_machines_are_free() -> None:
    table = PriceTable()
    assert cost(table, "local", 10**9, 10**9) == 0
    assert table.is_free("scripted", NOON_MS)


def test_a_published_price_is_used_for_a_langchain_name() -> None:
    assert cost(PriceTable(), "openai:gpt-4o-mini", 1_000_000, 1_000_000) == 750_000


def test_a_policy_price_wins() -> None:
    table = PriceTable(OWN)
    assert cost(table, "openai:gpt-4o-mini", 1, 1) == 15
    assert not table.is_free("local", NOON_MS)


def test_a_sum_is_rounded_up_once() -> None:
    table = PriceTable(OWN)
    assert cost(table, "local", 1, 0) == 1
    assert cost(table, "local", 6, 1) == 1
    assert cost(table, "local", 6, 2) == 2


@pytest.mark.parametrize(
    "model", ["gpt-4o-mini", "nobody:model", "openai:", ":x", "", "openai:no-such", "ollama:llama3"]
)
def test_a_model_nobody_prices_has_no_price(model: str) -> None:
    assert PriceTable().rates(model, NOON_MS) is None


def test_names_that_nobody_knows_do_not_fill_the_memory() -> None:
    table = PriceTable()
    for number in range(_MODELS_CACHED_MAX + 10):
        table.rates(f"nobody:{number}", NOON_MS)
    assert len(table._published) <= _MODELS_CACHED_MAX


def test_the_digest_names_the_prices_and_not_the_moment() -> None:
    assert PriceTable().digest == PriceTable().digest
    assert PriceTable(OWN).digest != PriceTable().digest
    assert len(PriceTable(OWN).digest) == 16


def test_every_published_price_is_computed_as_its_own_package_does() -> None:
    table = PriceTable()
    when = datetime.fromtimestamp(NOON_MS / 1000, tz=UTC)
    compared = 0
    for provider in providers:
        for model in provider.models:
            found = provider.find_model(model.id, all_providers=providers)
            if found is None:
                continue
            for read, written in USAGES:
                ours = cost(table, f"{provider.id}:{model.id}", read, written)
                if ours is None:
                    break
                theirs = found.calc_price(
                    PublishedUsage(input_tokens=read, output_tokens=written),
                    provider,
                    genai_request_timestamp=when,
                ).total_price
                assert ours == math.ceil(theirs * Decimal(1_000_000)), (provider.id, model.id)
                compared += 1
    assert compared > 5000


def test_no_published_tier_makes_a_longer_input_cheaper() -> None:
    """What is reserved for the longest input must cover a shorter one."""
    table = PriceTable()
    for provider in providers:
        for model in provider.models:
            rates = table.rates(f"{provider.id}:{model.id}", NOON_MS)
            if rates is not None:
                for tiers in (rates.input, rates.output):
                    assert sorted(nanos for _, nanos in tiers) == [nanos for _, nanos in tiers]


PARTS = Policy.from_yaml(
    "prices: {'openai:x': {input_usd_per_mtok: 10, output_usd_per_mtok: 20,"
    " cache_read_usd_per_mtok: 1, cache_write_usd_per_mtok: 12.5, cache_write_1h_usd_per_mtok: 22,"
    " audio_input_usd_per_mtok: 40, audio_output_usd_per_mtok: 80}}",
    "p",
).prices


def test_parts_of_the_input_and_output_have_prices_of_their_own() -> None:
    rates = PriceTable(PARTS).rates("openai:x", NOON_MS)
    assert rates is not None
    usage = Usage(
        input_tokens=1_000,
        output_tokens=100,
        cache_read_tokens=600,
        cache_write_tokens=100,
        cache_write_1h_tokens=40,
        audio_input_tokens=50,
        reasoning_tokens=30,
        audio_output_tokens=10,
    )
    read_micros = 250 * 10 + 600 * 1 + 60 * 12.5 + 40 * 22 + 50 * 40
    assert cost_micros(rates, usage) == read_micros + 90 * 20 + 10 * 80


def test_a_part_without_a_price_of_its_own_costs_as_much_as_the_rest() -> None:
    rates = PriceTable(OWN).rates("local", NOON_MS)
    assert rates is not None
    plain = Usage(input_tokens=1_000, output_tokens=100)
    assert cost_micros(rates, plain) == cost_micros(
        rates, plain.model_copy(update={"cache_read_tokens": 900, "audio_output_tokens": 90})
    )


@pytest.mark.parametrize(
    ("prices", "micros"),
    [
        ({"cache_write_usd_per_mtok": "12.5"}, 60 * 12.5 + 40 * 20 + 900 * 10),
        ({"cache_write_1h_usd_per_mtok": 18}, 60 * 10 + 40 * 18 + 900 * 10),
        ({}, 1_000 * 10),
    ],
)
def test_what_is_written_for_an_hour_costs_two_inputs_unless_it_has_a_price(
    prices: dict[str, object], micros: float
) -> None:
    price = {"input_usd_per_mtok": 10, "output_usd_per_mtok": 20, **prices}
    policy = Policy.model_validate({"prices": {"openai:x": price}})
    rates = PriceTable(policy.prices).rates("openai:x", NOON_MS)
    assert rates is not None
    written = Usage(input_tokens=1_000, cache_write_tokens=100, cache_write_1h_tokens=40)
    assert cost_micros(rates, written) == micros


def test_published_tokens_of_an_hour_cost_twice_the_input() -> None:
    rates = PriceTable().rates("anthropic:claude-sonnet-4-0", NOON_MS)
    assert rates is not None
    written = Usage(input_tokens=1_000, cache_write_tokens=1_000, cache_write_1h_tokens=600)
    assert cost_micros(rates, written) == 400 * 3.75 + 600 * 6


def test_a_price_of_a_part_changes_the_digest() -> None:
    changed = dict(PARTS)
    changed["openai:x"] = PARTS["openai:x"].model_copy(update={"cache_read_usd_per_mtok": None})
    assert PriceTable(changed).digest != PriceTable(PARTS).digest


def test_published_cached_tokens_are_cheaper() -> None:
    rates = PriceTable().rates("openai:gpt-4o", NOON_MS)
    assert rates is not None
    cached = Usage(input_tokens=2_000, output_tokens=100, cache_read_tokens=1_600)
    assert cost_micros(rates, cached) == 400 * 2.5 + 1_600 * 1.25 + 100 * 10


def test_a_model_costs_the_same_by_whatever_client() -> None:
    table = PriceTable(PARTS)
    for name in ("openai:x", "openai:gpt-4o"):
        assert table.rates(f"langchain:{name}", NOON_MS) == table.rates(name, NOON_MS)
    assert table.rates("langchain:langchain:nothing", NOON_MS) is None


def test_price_steps_are_those_of_each_call() -> None:
    rates = PriceTable().rates("google_genai:gemini-2.5-pro", NOON_MS)
    assert rates is not None
    call = Usage(input_tokens=150_000, output_tokens=1_000)
    assert cost_micros(rates, call, call) == 2 * cost_micros(rates, call)
    assert cost_micros(rates, call + call) > cost_micros(rates, call, call)


@pytest.mark.parametrize("reads", [(150_000, 150_000), (300_000,), (199_999, 1), (0,)])
@pytest.mark.parametrize("name", ["google-gla:gemini-2.5-pro", "anthropic:claude-sonnet-4-0"])
def test_the_worst_case_holds_for_prices_that_step(name: str, reads: tuple[int, ...]) -> None:
    rates = PriceTable().rates(name, NOON_MS)
    assert rates is not None
    for part in (None, "cache_read_tokens", "cache_write_tokens", "audio_input_tokens"):
        calls = [
            Usage(input_tokens=read, output_tokens=99, **({} if part is None else {part: read}))
            for read in reads
        ]
        in_all = sum(calls, Usage())
        assert rates.worst_micros(in_all, len(calls)) >= cost_micros(rates, *calls)


def test_a_price_for_each_request_counts_for_each_call_in_the_worst_case() -> None:
    rates = Rates(((-1, 0),), ((-1, 0),), request_nanos=5 * 10**9)
    assert rates.worst_micros(Usage(), 3) == cost_micros(rates, *[Usage()] * 3) == 15
