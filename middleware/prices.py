"""What a model's tokens cost: published prices of `genai-prices`, and what a policy says instead.

Money is in whole micros (millionths of a US dollar); the sum of an attempt's calls is rounded up
once, so that no spend is lost to rounding and an attempt is at most one micro too dear.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from millstream.middleware.policy import Price
from millstream.schemas.base import Micros, Usage, saturated
from millstream.schemas.endpoints import without_client

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, Provider

FREE_MODELS = ("local", "scripted")
"""Models that run on our own machines: their price is zero unless a policy names one."""

_NANOS_PER_MICRO = 10**9
_REQUESTS_PER_KCOUNT = 1000
_MODELS_CACHED_MAX = 4096
_MODEL_CHARACTERS_MAX = 256

_AN_HOUR_TO_FIVE_MINUTES = Decimal("1.6")
"""How much dearer a token is that stays in the cache for an hour: 2 to 1.25 times the input, in
Anthropic's "Prompt caching", the only provider that tells them apart."""

_PARTS = (
    "cache_read_usd_per_mtok",
    "cache_write_usd_per_mtok",
    "cache_write_1h_usd_per_mtok",
    "audio_input_usd_per_mtok",
    "audio_output_usd_per_mtok",
)

Tiers = tuple[tuple[int, int], ...]
"""Pairs of (input tokens above which it holds, nano-micros per token), the first from -1."""


@dataclass(frozen=True, slots=True)
class Rates:
    """One price of one model, in whole nano-micros (1e-15 US dollars): exact, without fractions.

    A tier holds for a whole model call, by the number of its input tokens. Parts of the input and
    output without a price of their own (`None`) cost as much as the rest.
    """

    input: Tiers
    output: Tiers
    request_nanos: int = 0
    cache_read: Tiers | None = None
    cache_write: Tiers | None = None
    cache_write_1h: Tiers | None = None
    audio_input: Tiers | None = None
    audio_output: Tiers | None = None

    @property
    def is_free(self) -> bool:
        """Whether nothing costs, however much is used."""
        return self == _FREE

    def worst_micros(self, usage: Usage, calls_max: int) -> Micros:
        """Give the most that so many model calls can cost that use this much in all.

        Whatever part of it is cached, written to the cache or audio, and however it is spread over
        the calls. At most what 64 bits hold.
        """
        reads = self._steps(usage.input_tokens)
        dearest_in = max(
            _dearest(self.input, (self.cache_read, written, self.audio_input), read)
            for read in reads
            for written in (self.cache_write, self.cache_write_1h)
        )
        dearest_out = max(_dearest(self.output, (self.audio_output,), read) for read in reads)
        nanos = usage.input_tokens * dearest_in + usage.output_tokens * dearest_out
        return rounded_up(nanos + calls_max * self.request_nanos)

    def _steps(self, input_tokens: int) -> set[int]:
        """Give numbers of input tokens, up to this one, of which each has prices of its own."""
        every = (self.input, self.output, self.cache_read, self.cache_write, self.cache_write_1h)
        prices = (*every, self.audio_input, self.audio_output)
        starts = {start for tiers in prices if tiers is not None for start, _ in tiers}
        return {start + 1 for start in starts if start < max(input_tokens, 0)}

    def nanos(self, usage: Usage) -> int:
        """Give what one model call costs, in nano-micros."""
        read = usage.input_tokens
        plain, other = _rate(self.input, read), _rate(self.output, read)
        nanos = read * plain + usage.output_tokens * other + self.request_nanos
        if usage.cache_read_tokens and self.cache_read is not None:
            nanos += usage.cache_read_tokens * (_rate(self.cache_read, read) - plain)
        if usage.cache_write_tokens:
            nanos += self._written_nanos(usage, plain)
        if usage.audio_input_tokens and self.audio_input is not None:
            nanos += usage.audio_input_tokens * (_rate(self.audio_input, read) - plain)
        if usage.audio_output_tokens and self.audio_output is not None:
            nanos += usage.audio_output_tokens * (_rate(self.audio_output, read) - other)
        return max(0, nanos)

    def _written_nanos(self, usage: Usage, plain: int) -> int:
        """Give by how much tokens are dearer than others because the cache has to keep them."""
        read = usage.input_tokens
        written = plain if self.cache_write is None else _rate(self.cache_write, read)
        nanos = usage.cache_write_tokens * (written - plain)
        if usage.cache_write_1h_tokens and self.cache_write_1h is not None:
            hours = min(usage.cache_write_1h_tokens, usage.cache_write_tokens)
            nanos += hours * (_rate(self.cache_write_1h, read) - written)
        return nanos


def rounded_up(nanos: int) -> Micros:
    """Give nano-micros as micros, rounded up to the next; at most what 64 bits hold."""
    return saturated(-(-nanos // _NANOS_PER_MICRO))


_FREE = Rates(((-1, 0),), ((-1, 0),))

_RatesAt = Callable[[int], Rates]
"""Gives the rates at a time in milliseconds since the epoch: some prices change by date or hour."""


class PriceTable:
    """Prices by model name: `local`, `scripted`, or LangChain's `provider:name`.

    `overrides` win over everything. The published prices come with the package; nothing is fetched.
    They take some 0.4 s and 70 MB to load, so that happens at the first look-up of a
    `provider:name`: do one at the root (`rates`) where such a model is the default. One table may
    serve all pipelines of a process.
    """

    def __init__(self, overrides: Mapping[str, Price] | None = None) -> None:
        self._overrides = dict(overrides or {})
        self._own: dict[str, Rates] = dict.fromkeys(FREE_MODELS, _FREE)
        for name, price in self._overrides.items():
            self._own[name] = Rates(
                ((-1, _nanos(price.input_usd_per_mtok)),),
                ((-1, _nanos(price.output_usd_per_mtok)),),
                cache_read=_flat(price.cache_read_usd_per_mtok),
                cache_write=_flat(price.cache_write_usd_per_mtok),
                cache_write_1h=_for_an_hour(
                    _flat(price.cache_write_1h_usd_per_mtok),
                    _flat(price.cache_write_usd_per_mtok),
                ),
                audio_input=_flat(price.audio_input_usd_per_mtok),
                audio_output=_flat(price.audio_output_usd_per_mtok),
            )
        self._published: dict[str, _RatesAt | None] = {}
        self.digest = self._make_digest()

    def rates(self, model: str, at_ms: int) -> Rates | None:
        """Give the rates of `model` at a time, `None` where no price is known."""
        own = self._own.get(model)
        if own is not None:
            return own
        if (plain := without_client(model)) != model:
            return self.rates(plain, at_ms)
        try:
            find = self._published[model]
        except KeyError:
            find = self._remember(model)
        return None if find is None else find(at_ms)

    def is_free(self, model: str, at_ms: int) -> bool:
        """Tell whether a run of `model` is known to cost nothing."""
        rates = self.rates(model, at_ms)
        return rates is not None and rates.is_free

    def _remember(self, model: str) -> _RatesAt | None:
        # A request may name any model: forget all at the bound, rather than grow with bad names.
        if len(self._published) >= _MODELS_CACHED_MAX:
            self._published.clear()
        found = _find_published(model)
        self._published[model] = found
        return found

    def _make_digest(self) -> str:
        """Hash the published data and the overrides: 16 hexadecimal digits of SHA-256."""
        digest = hashlib.sha256(_published_digest())
        for name, price in sorted(self._overrides.items()):
            digest.update(f"{name}={_nanos(price.input_usd_per_mtok)}".encode())
            digest.update(f"/{_nanos(price.output_usd_per_mtok)}\n".encode())
            for part in _PARTS:
                if (usd_per_mtok := getattr(price, part)) is not None:
                    digest.update(f"{part}={_nanos(usd_per_mtok)}\n".encode())
        return digest.hexdigest()[:16]


def _rate(tiers: Tiers, input_tokens: int) -> int:
    rate = tiers[0][1]
    for start, nanos in tiers[1:]:
        if input_tokens > start:
            rate = nanos
    return rate


def _dearest(plain: Tiers, parts: Iterable[Tiers | None], input_tokens: int) -> int:
    """Give the most that a token costs in a call of this size, whatever parts it belongs to."""
    rate = _rate(plain, input_tokens)
    return rate + sum(max(0, _rate(one, input_tokens) - rate) for one in parts if one is not None)


def _nanos(usd_per_mtok: Decimal) -> int:
    """A US dollar per million tokens is a micro per token; finer than 1e-9 of it is rounded up."""
    numerator, denominator = (usd_per_mtok * _NANOS_PER_MICRO).as_integer_ratio()
    return -(-numerator // denominator)


@cache
def _published_digest() -> bytes:
    """Hash the file of the published prices as it stands on disk, without loading it."""
    return hashlib.sha256(resources.files("genai_prices").joinpath("data.py").read_bytes()).digest()


@cache
def _providers() -> list[Provider]:
    # 70 MB that a deployment with only local models never needs.
    from genai_prices.data import providers  # noqa: PLC0415

    return list(providers)


def _find_published(model: str) -> _RatesAt | None:
    """Find a `provider:name`; its provider as genai-prices knows LangChain's name for it."""
    provider_name, colon, name = model.partition(":")
    if not (colon and provider_name and name) or len(model) > _MODEL_CHARACTERS_MAX:
        return None
    from genai_prices.data_snapshot import find_provider_by_id  # noqa: PLC0415
    from genai_prices.types import ModelPrice  # noqa: PLC0415

    # Not through the package's own snapshot: that one remembers every name it was ever asked for.
    provider = find_provider_by_id(_providers(), provider_name)
    info = None if provider is None else provider.find_model(name, all_providers=_providers())
    if info is None:
        return None
    if isinstance(info.prices, ModelPrice):
        rates = _compile(info.prices)
        return None if rates is None else lambda _at_ms: rates
    compiled = {id(each.prices): _compile(each.prices) for each in info.prices}
    if not compiled or None in compiled.values():
        return None

    def at(at_ms: int) -> Rates:
        when = datetime.fromtimestamp(at_ms / 1000, tz=UTC)
        found = compiled[id(info.get_prices(when))]
        return found if found is not None else _FREE

    return at


def _compile(price: ModelPrice) -> Rates | None:
    """Turn a published price into rates; `None` if it has none for tokens or requests."""
    if price.input_mtok is None and price.output_mtok is None and price.requests_kcount is None:
        return None
    per_kcount = price.requests_kcount
    return Rates(
        _tiers(price.input_mtok),
        _tiers(price.output_mtok),
        _nanos(per_kcount * _REQUESTS_PER_KCOUNT) if isinstance(per_kcount, Decimal) else 0,
        cache_read=_known_tiers(price.cache_read_mtok),
        cache_write=_known_tiers(price.cache_write_mtok),
        cache_write_1h=_for_an_hour(
            _known_tiers(getattr(price, "cache_write_1h_mtok", None)),
            _known_tiers(price.cache_write_mtok),
        ),
        audio_input=_known_tiers(price.input_audio_mtok),
        audio_output=_known_tiers(price.output_audio_mtok),
    )


def _known_tiers(price: object) -> Tiers | None:
    return None if price is None else _tiers(price)


def _for_an_hour(known: Tiers | None, cache_write: Tiers | None) -> Tiers | None:
    if known is not None or cache_write is None:
        return known
    return tuple((start, int(nanos * _AN_HOUR_TO_FIVE_MINUTES)) for start, nanos in cache_write)


def _flat(usd_per_mtok: Decimal | None) -> Tiers | None:
    return None if usd_per_mtok is None else ((-1, _nanos(usd_per_mtok)),)


def _tiers(price: object) -> Tiers:
    from genai_prices.types import TieredPrices  # noqa: PLC0415

    if isinstance(price, TieredPrices):
        return ((-1, _nanos(price.base)), *((t.start, _nanos(t.price)) for t in price.tiers))
    return ((-1, _nanos(price) if isinstance(price, Decimal) else 0),)
