"""Usage: tokens by quarter of an hour and by who used them where; calibration of estimates by what was billed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import usage
from palyra.events.base import Recorded
from palyra.projections.base import Chapter
from palyra.units import BP_PER_UNIT

if TYPE_CHECKING:
    from palyra.projections.state import State

CELL_US = 15 * 60 * 1_000_000
#: Five weeks without a pause. Quarters are counted, because a clock that was a year ahead for a moment must not
#: make all of them old.
KEEP_CELLS_COUNT = 35 * 24 * 4

#: Smaller inputs say too little about the ratio; see gateway specification 5.2 for the figures below.
_SAMPLE_MIN_TOKENS = 64
_SAMPLE_MIN_BP, _SAMPLE_MAX_BP = 2_500, 40_000
_HIGH_START_BP, _HIGH_UP_BP, _HIGH_DOWN_BP = 13_000, 950, 50
_SAMPLES_NEEDED = 8


class UsageCell(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """Sums of one quarter of an hour."""

    rows_count: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    #: Rows whose counts are not all the provider's.
    estimated_count: int = 0
    estimated_output_tokens: int = 0
    #: Sum of the known costs; complete only where nothing is unpriced.
    cost_nanousd: int = 0
    #: Rows whose cost is not known, and their tokens.
    unpriced_count: int = 0
    unpriced_tokens: int = 0


class Calibration(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """Billed input over estimated input of one upstream model, in basis points."""

    samples_count: int = 0
    ratio_bp: int = BP_PER_UNIT
    #: Settles near the 95th percentile of the samples.
    high_bp: int = _HIGH_START_BP


class UsageState(msgspec.Struct, kw_only=True):
    """Cells by start of the quarter (first filled first), then by who used what how."""

    #: The inner key is `provider|model|principal|endpoint|origin`.
    cells: dict[int, dict[str, UsageCell]] = {}
    #: The quarter that was filled first last, and the sums of all that is not in it: nearly every row is, so that
    #: it is added up once and not twice.
    newest_us: int = -1
    older: UsageCell = msgspec.field(default_factory=UsageCell)
    #: By `provider_id/upstream_model`.
    calibrations: dict[str, Calibration] = {}


CHAPTER = Chapter()
_UNCALIBRATED = Calibration()


def calibrate(state: State, provider_id: str, upstream_model: str, raw_tokens: int) -> tuple[int, int, int]:
    """Return (ratio_bp, estimated, upper) for a raw estimate, by what was billed so far."""
    calibration = state.usage.calibrations.get(f"{provider_id}/{upstream_model}", _UNCALIBRATED)
    ratio_bp = calibration.ratio_bp if calibration.samples_count >= _SAMPLES_NEEDED else BP_PER_UNIT
    # Both rounded up.
    estimated = -(-raw_tokens * ratio_bp // BP_PER_UNIT)
    return ratio_bp, estimated, max(estimated, -(-raw_tokens * calibration.high_bp // BP_PER_UNIT))


def total_of(state: State) -> UsageCell:
    """Return the sums of everything that was recorded."""
    own = state.usage
    total = msgspec.structs.replace(own.older)
    for cell in own.cells.get(own.newest_us, {}).values():
        _merge(total, cell)
    return total


@CHAPTER.on(usage.UsageRecorded)
def _recorded(state: State, recorded: Recorded, body: usage.UsageRecorded) -> None:
    own, start_us = state.usage, body.effective_at_us - body.effective_at_us % CELL_US
    cells = own.cells.get(start_us)
    if cells is None:
        cells = _open_quarter(own, start_us)
    key = f"{body.provider_id}|{body.model_id}|{body.principal_id}|{body.endpoint}|{body.origin}"
    cell = cells.get(key)
    if cell is None:
        cell = cells[key] = UsageCell()
    _add(cell, body)
    if start_us != own.newest_us:
        _add(own.older, body)
    if body.source == "provider" and body.raw_input_tokens >= _SAMPLE_MIN_TOKENS:
        _learn(state, body)


@CHAPTER.on(usage.UsageCorrected)
def _corrected(state: State, recorded: Recorded, body: usage.UsageCorrected) -> None:
    key = f"{body.provider_id}|{body.model_id}|{body.principal_id}|{body.endpoint}|{body.origin}"
    own, start_us = state.usage, body.effective_at_us - body.effective_at_us % CELL_US
    counted = own.cells.get(start_us, {}).get(key)
    cells = [] if counted is None else [counted]
    if counted is None or start_us != own.newest_us:
        cells.append(own.older)
    deltas, tokens_after = body.deltas, body.tokens_before + body.deltas.total_tokens
    for cell in cells:
        cell.input_tokens += deltas.input_tokens
        cell.output_tokens += deltas.output_tokens
        cell.cached_input_tokens += deltas.cached_input_tokens
        cell.cache_write_5m_tokens += deltas.cache_write_5m_tokens
        cell.cache_write_1h_tokens += deltas.cache_write_1h_tokens
        cell.reasoning_tokens += deltas.reasoning_tokens
        cell.cost_nanousd += body.change_nanousd
        cell.unpriced_count += body.is_unpriced_after - body.is_unpriced_before
        cell.unpriced_tokens += body.is_unpriced_after * tokens_after - body.is_unpriced_before * body.tokens_before


def _add(cell: UsageCell, body: usage.UsageRecorded) -> None:
    """Add a row; most rows have no parts, and adding zero is what a fold would do most of its time."""
    used = body.usage
    cell.rows_count += 1
    cell.input_tokens += used.input_tokens
    cell.output_tokens += used.output_tokens
    if used.cached_input_tokens:
        cell.cached_input_tokens += used.cached_input_tokens
    if used.cache_write_5m_tokens:
        cell.cache_write_5m_tokens += used.cache_write_5m_tokens
    if used.cache_write_1h_tokens:
        cell.cache_write_1h_tokens += used.cache_write_1h_tokens
    if used.reasoning_tokens:
        cell.reasoning_tokens += used.reasoning_tokens
    if body.source != "provider":
        cell.estimated_count += 1
        cell.estimated_output_tokens += used.output_tokens
    if body.cost_nanousd is not None:
        cell.cost_nanousd += body.cost_nanousd
    else:
        cell.cost_nanousd += body.known_nanousd
        cell.unpriced_count += 1
        cell.unpriced_tokens += used.input_tokens + used.output_tokens


def _merge(sums: UsageCell, cell: UsageCell) -> None:
    for name in UsageCell.__struct_fields__:
        setattr(sums, name, getattr(sums, name) + getattr(cell, name))


def _open_quarter(own: UsageState, start_us: int) -> dict[str, UsageCell]:
    for cell in own.cells.get(own.newest_us, {}).values():
        _merge(own.older, cell)
    if len(own.cells) >= KEEP_CELLS_COUNT:
        del own.cells[next(iter(own.cells))]
    own.newest_us = start_us
    return own.cells.setdefault(start_us, {})


def _learn(state: State, body: usage.UsageRecorded) -> None:
    key = f"{body.provider_id}/{body.upstream_model}"
    calibration = state.usage.calibrations.get(key)
    if calibration is None:
        calibration = state.usage.calibrations[key] = Calibration()
    sample_bp = body.usage.input_tokens * BP_PER_UNIT // body.raw_input_tokens
    sample_bp = _within(sample_bp, _SAMPLE_MIN_BP, _SAMPLE_MAX_BP)
    calibration.samples_count += 1
    calibration.ratio_bp += (sample_bp - calibration.ratio_bp) // 16
    step_bp = _HIGH_UP_BP if sample_bp > calibration.high_bp else -_HIGH_DOWN_BP
    calibration.high_bp = _within(calibration.high_bp + step_bp, BP_PER_UNIT, _SAMPLE_MAX_BP)


def _within(value: int, least: int, most: int) -> int:
    return least if value < least else most if value > most else value
