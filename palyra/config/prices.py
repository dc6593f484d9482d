"""Prices out of another file: what of them goes into the configuration, and how. Pure, but for reading the file.

A row takes the place of the one that says the same of the same model, variant and beginning; every other row of the
configuration stays.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path as FilePath
from typing import Any, Literal, NamedTuple

from palyra.config.edit import Append, Edit, entry_edits
from palyra.config.problems import ConfigProblems, Path, Problem, Source, key_text
from palyra.decisions.overrides import Fault, read_overrides
from palyra.errors import ConfigInvalid
from palyra.events.pricing import PriceEntry
from palyra.limits import CONFIG_FILE_MAX_BYTES

_OVERRIDES: Path = ("pricing", "overrides")
_FORM = "write [[pricing.overrides]] as in the configuration, in TOML or JSON"


class PriceEdit(NamedTuple):
    """What becomes of one row."""

    change: Literal["new", "changed", "same"]
    edits: list[Edit]


def read_price_rows(file: FilePath) -> list[dict[str, Any]]:
    """Return the rows of `pricing.overrides` in a TOML or JSON file; raises `ConfigInvalid`."""
    try:
        if file.stat().st_size > CONFIG_FILE_MAX_BYTES:
            raise ConfigInvalid(f"{file} is larger than a configuration may be.", code="config_invalid")
        text = file.read_text()
        tree = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except OSError as exc:
        raise ConfigInvalid(f"{file} cannot be read: {exc.strerror}.", code="bad_path") from exc
    except (ValueError, RecursionError) as exc:
        kind = "JSON" if file.suffix == ".json" else "TOML"
        raise ConfigInvalid(f"{file} is no {kind}: {exc}.", hint=_FORM, code="config_invalid") from exc
    pricing = tree.get("pricing") if isinstance(tree, dict) else None
    rows = pricing.get("overrides") if isinstance(pricing, dict) else None
    if not rows or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigInvalid(f"{file} has no prices.", hint=_FORM, code="config_invalid")
    return [{name: _plain(value) for name, value in row.items()} for row in rows]


def check_price_rows(
    file: FilePath, rows: Sequence[Mapping[str, Any]], provider_ids: Sequence[str]
) -> list[PriceEntry]:
    """Return the entry of each row; raises `ConfigProblems` with everything that is wrong with all of them."""
    entries, faults = read_overrides(rows, provider_ids)
    if faults:
        raise ConfigProblems([_problem(file, fault) for fault in faults])
    return entries


def price_edits(text: str, rows: Sequence[Mapping[str, Any]]) -> list[PriceEdit]:
    """Return what each row changes in the text of a configuration."""
    pricing = tomllib.loads(text).get("pricing", {})
    own = {_identity(row): (at, row) for at, row in enumerate(pricing.get("overrides", []))}
    return [_edit(row, own.get(_identity(row))) for row in rows]


def _edit(row: Mapping[str, Any], found: tuple[int, Mapping[str, Any]] | None) -> PriceEdit:
    if found is None:
        return PriceEdit("new", [Append(path=_OVERRIDES, entry=row)])
    at, old = found
    edits = entry_edits((*_OVERRIDES, at), {name: _plain(value) for name, value in old.items()}, row)
    return PriceEdit("changed" if edits else "same", edits)


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        row.get("provider_id"),
        row.get("model_id", "*"),
        row.get("variant", "standard"),
        _plain(row.get("effective_from")),
        row.get("assumed", False),
    )


def _plain(value: Any) -> Any:
    """Return a date of TOML as the text that means the same."""
    return value.isoformat() if isinstance(value, date) else value


def _problem(file: FilePath, fault: Fault) -> Problem:
    source = Source(kind="file", file=str(file))
    return Problem(code=fault.code, key=key_text((*_OVERRIDES, *fault.path)), message=fault.message, source=source)
