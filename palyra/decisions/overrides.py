"""Prices that somebody writes down: read from plain data, as decimals, and refused with everything that is wrong.

Rates are written per million tokens and nothing else; the unit is in the name of the key. A number of TOML is taken
by the digits that it was written with, so that 0.1 is a tenth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from palyra.decisions.pricing import with_id
from palyra.decisions.strange_keys import OF_PRICES, unknown_key
from palyra.events.pricing import PriceEntry, PriceTier
from palyra.limits import OVERRIDES_MAX_COUNT
from palyra.units import NANOUSD_PER_USD

#: A rate above this is a slip: nobody asks a million dollars for a million tokens.
_MAX_USD = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TOKEN_RATES = (
    "input cached_input cache_write_5m cache_write_1h output reasoning input_audio output_audio input_image"
).split()
#: Key -> field of the entry.
_TOKEN_KEYS = {f"{name}_usd_per_mtok": f"{name}_nanousd_per_mtok" for name in _TOKEN_RATES}
_RATE_KEYS = {
    **_TOKEN_KEYS,
    "audio_usd_per_minute": "audio_nanousd_per_minute",
    "image_usd_each": "image_nanousd_each",
    "request_usd_each": "request_nanousd_each",
    "search_usd_per_thousand": "search_nanousd_per_thousand",
}
_NAMES = ("provider_id", "model_id", "variant", "effective_from", "effective_to", "free", "assumed", "tiers")
_VARIANTS = ("standard", "batch", "flex", "priority")
#: Every key that an override may have.
OVERRIDE_KEYS = (*_NAMES, "currency", *_RATE_KEYS)


class Fault(NamedTuple):
    """What is wrong with a value, where it stands, and the way out."""

    path: tuple[str | int, ...]
    code: str
    message: str


class BadAmount(Exception):
    """A value that means nothing."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def read_overrides(
    rows: Sequence[Mapping[str, Any]], provider_ids: Sequence[str]
) -> tuple[list[PriceEntry], list[Fault]]:
    """Return the entries, and everything that is wrong with them (then the entries are not meant to be used)."""
    entries: list[tuple[int, PriceEntry]] = []
    faults: list[Fault] = []
    for index, row in enumerate(rows):
        reader = _Reader(row, index, provider_ids)
        entry = reader.read()
        faults += reader.faults
        if entry is not None and not reader.faults:
            entries.append((index, entry))
    faults += _overlaps(entries)
    if len(rows) > OVERRIDES_MAX_COUNT:
        faults.append(Fault((), "limit_overrides", f"must be at most {OVERRIDES_MAX_COUNT} overrides"))
    return [entry for _, entry in entries], faults


def read_usd(value: Any, *, max_usd: int = _MAX_USD) -> int:
    """Return an amount of USD in nano-USD, exactly; raises `BadAmount`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise BadAmount("wrong_type", 'must be an amount of USD such as "0.59"')
    try:
        amount = Decimal(value if isinstance(value, str) else repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        raise BadAmount("price_not_finite", 'must be an amount of USD such as "0.59"') from None
    if not amount.is_finite():
        raise BadAmount("price_not_finite", "must be finite")
    if amount < 0:
        raise BadAmount("price_negative", "must not be negative")
    if amount > max_usd:
        raise BadAmount("price_too_large", f"must be at most {max_usd:,} USD")
    scaled = amount * NANOUSD_PER_USD
    if scaled != scaled.to_integral_value():
        raise BadAmount("price_precision", "must not be finer than one billionth of a USD")
    return int(scaled)


def read_instant_us(value: Any) -> int:
    """Return a date (its first instant in UTC) or an instant with an offset; raises `BadAmount`."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise BadAmount("price_window", "must be a date or an RFC 3339 instant") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        raise BadAmount("price_window", "must be a date or an RFC 3339 instant")
    aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


class _Reader:
    """Reads one override."""

    def __init__(self, row: Mapping[str, Any], index: int, provider_ids: Sequence[str]) -> None:
        self.faults: list[Fault] = []
        self._row = row
        self._index = index
        self._provider_ids = provider_ids

    def _fault(self, code: str, message: str, *inside: str | int) -> None:
        self.faults.append(Fault((self._index, *inside), code, message))

    def read(self) -> PriceEntry | None:
        row = self._row
        for name in row:
            if name not in OVERRIDE_KEYS:
                self._fault("unknown_key", unknown_key(name, OVERRIDE_KEYS, OF_PRICES), name)
        if row.get("currency", "USD") != "USD":
            self._fault("price_currency", "must be USD", "currency")
        fields: dict[str, Any] = {"model_id": "*"}
        for name in ("provider_id", "model_id"):
            if isinstance(row.get(name), str):
                fields[name] = row[name]
            elif name in row:
                self._fault("wrong_type", "must be a text", name)
            elif name == "provider_id":
                self._fault("missing_key", "must name a provider", name)
        if isinstance(row.get("provider_id"), str) and row["provider_id"] not in self._provider_ids:
            self._fault("price_unknown_provider", "no provider has this name", "provider_id")
        if row.get("variant", "standard") not in _VARIANTS:
            self._fault("bad_enum", f"must be one of {', '.join(_VARIANTS)}", "variant")
        fields["variant"] = row.get("variant", "standard")
        fields |= self._window()
        rates = self._rates(row, _RATE_KEYS)
        tiers = self._tiers()
        flags = {name: row.get(name, False) for name in ("free", "assumed")}
        for name, value in flags.items():
            if not isinstance(value, bool):
                self._fault("wrong_type", "must be true or false", name)
        if flags["free"] and (rates or tiers or flags["assumed"]):
            self._fault("price_free_with_rates", "what is free has no rates", "free")
        if not flags["free"] and not any(name in row for name in _RATE_KEYS):
            self._fault("price_empty", "must have a rate, or free = true")
        if self.faults:
            return None
        fields |= {"state": "free"} if flags["free"] else rates
        fields |= {"source": "assumed", "precision": "assumed"} if flags["assumed"] else {"source": "operator"}
        return with_id(PriceEntry(price_id="", tiers=tiers, **fields))

    def _window(self) -> dict[str, int]:
        fields: dict[str, int] = {}
        for name in ("effective_from", "effective_to"):
            if name in self._row:
                try:
                    fields[f"{name}_us"] = read_instant_us(self._row[name])
                except BadAmount as bad:
                    self._fault(bad.code, str(bad), name)
        if fields.get("effective_to_us", 1 << 62) <= fields.get("effective_from_us", 0):
            self._fault("price_window", "must end after it begins", "effective_to")
        return fields

    def _rates(self, row: Mapping[str, Any], keys: Mapping[str, str], *inside: str | int) -> dict[str, int]:
        fields = {}
        for name, field in keys.items():
            if name in row:
                try:
                    fields[field] = read_usd(row[name])
                except BadAmount as bad:
                    self._fault(bad.code, str(bad), *inside, name)
        return fields

    def _tiers(self) -> list[PriceTier]:
        rows = self._row.get("tiers", [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self._fault("wrong_type", "must be an array of tables", "tiers")
            return []
        tiers: list[PriceTier] = []
        for at, row in enumerate(rows):
            for name in row:
                if name not in _TOKEN_KEYS and name != "above_input_tokens":
                    said = unknown_key(name, (*_TOKEN_KEYS, "above_input_tokens"), OF_PRICES)
                    self._fault("unknown_key", said, "tiers", at, name)
            above = row.get("above_input_tokens")
            rates = self._rates(row, _TOKEN_KEYS, "tiers", at)
            if type(above) is not int or above <= (tiers[-1].above_input_tokens if tiers else 0):
                self._fault("price_tier_order", "must be a whole number above the one before", "tiers", at)
            elif not rates:
                self._fault("price_empty", "must have a rate", "tiers", at)
            else:
                tiers.append(PriceTier(above_input_tokens=above, **rates))
        return tiers


def _overlaps(entries: Sequence[tuple[int, PriceEntry]]) -> Iterator[Fault]:
    """Yield two entries of one model that both hold at some instant."""
    for at, (index, one) in enumerate(entries):
        for other_index, other in entries[:at]:
            same = (one.key, one.variant, one.source) == (other.key, other.variant, other.source)
            if same and _begins(one) < _ends(other) and _begins(other) < _ends(one):
                message = f"holds at the same time as entry {other_index + 1} of this model"
                yield Fault((index,), "price_overlap", message)
                break


def _begins(entry: PriceEntry) -> int:
    return entry.effective_from_us


def _ends(entry: PriceEntry) -> int:
    return 1 << 62 if entry.effective_to_us is None else entry.effective_to_us
