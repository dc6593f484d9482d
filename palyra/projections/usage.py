"""Usage: tokens by quarter of an hour and by who used them where; calibration of estimates by what was billed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import usage
from palyra.events.base import Recorded
from palyra.projections.base import Chapter
from palyra.units import BP_PER_UNIT, ceil_div

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


class UsageCell(msgspec.Struct, kw_only=True, omit_defaults=True):
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


class Calibration(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Billed input over estimated input of one upstream model, in basis points."""

    samples_count: int = 0
    ratio_bp: int = BP_PER_UNIT
    #: Settles near the 95th percentile of the samples.
    high_bp: int = _HIGH_START_BP


class UsageState(msgspec.Struct, kw_only=True):
    """Cells by start of the quarter (first filled first), then by who used what how; totals."""

    #: The inner key is `provider|model|principal|endpoint|origin`.
    cells: dict[int, dict[str, UsageCell]] = {}
    total: UsageCell = msgspec.field(default_factory=UsageCell)
    #: By `provider_id/upstream_model`.
    calibrations: dict[str, Calibration] = {}


CHAPTER = Chapter()
_UNCALIBRATED = Calibration()


def calibrate(state: State, provider_id: str, upstream_model: str, raw_tokens: int) -> tuple[int, int, int]:
    """Return (ratio_bp, estimated, upper) for a raw estimate, by what was billed so far."""
    calibration = state.usage.calibrations.get(f"{provider_id}/{upstream_model}", _UNCALIBRATED)
    ratio_bp = calibration.ratio_bp if calibration.samples_count >= _SAMPLES_NEEDED else BP_PER_UNIT
    estimated = ceil_div(raw_tokens * ratio_bp, BP_PER_UNIT)
    return ratio_bp, estimated, max(estimated, ceil_div(raw_tokens * calibration.high_bp, BP_PER_UNIT))


@CHAPTER.on(usage.UsageRecorded)
def _recorded(state: State, recorded: Recorded, body: usage.UsageRecorded) -> None:
    start_us = body.effective_at_us - body.effective_at_us % CELL_US
    cells = state.usage.cells.get(start_us)
    if cells is None:
        cells = _open_quarter(state, start_us)
    key = f"{body.provider_id}|{body.model_id}|{body.principal_id}|{body.endpoint}|{body.origin}"
    cell = cells.get(key)
    if cell is None:
        cell = cells[key] = UsageCell()
    for sums in (cell, state.usage.total):
        _add(sums, body)
    if body.source == "provider" and body.raw_input_tokens >= _SAMPLE_MIN_TOKENS:
        _learn(state, body)


@CHAPTER.on(usage.UsageCorrected)
def _corrected(state: State, recorded: Recorded, body: usage.UsageCorrected) -> None:
    key = f"{body.provider_id}|{body.model_id}|{body.principal_id}|{body.endpoint}|{body.origin}"
    cells = state.usage.cells.get(body.effective_at_us - body.effective_at_us % CELL_US, {})
    deltas, tokens_after = body.deltas, body.tokens_before + body.deltas.total_tokens
    for cell in (state.usage.total, cells.get(key)):
        if cell is None:
            continue
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
    used = body.usage
    cell.rows_count += 1
    cell.input_tokens += used.input_tokens
    cell.output_tokens += used.output_tokens
    cell.cached_input_tokens += used.cached_input_tokens
    cell.cache_write_5m_tokens += used.cache_write_5m_tokens
    cell.cache_write_1h_tokens += used.cache_write_1h_tokens
    cell.reasoning_tokens += used.reasoning_tokens
    if body.source != "provider":
        cell.estimated_count += 1
        cell.estimated_output_tokens += body.usage.output_tokens
    cell.cost_nanousd += body.known_nanousd if body.cost_nanousd is None else body.cost_nanousd
    if body.cost_nanousd is None:
        cell.unpriced_count += 1
        cell.unpriced_tokens += body.usage.total_tokens


def _open_quarter(state: State, start_us: int) -> dict[str, UsageCell]:
    cells = state.usage.cells
    if len(cells) >= KEEP_CELLS_COUNT:
        del cells[next(iter(cells))]
    return cells.setdefault(start_us, {})


def _learn(state: State, body: usage.UsageRecorded) -> None:
    key = f"{body.provider_id}/{body.upstream_model}"
    calibration = state.usage.calibrations.get(key)
    if calibration is None:
        calibration = state.usage.calibrations[key] = Calibration()
    sample_bp = body.usage.input_tokens * BP_PER_UNIT // body.raw_input_tokens
    sample_bp = min(max(sample_bp, _SAMPLE_MIN_BP), _SAMPLE_MAX_BP)
    calibration.samples_count += 1
    calibration.ratio_bp += (sample_bp - calibration.ratio_bp) // 16
    step_bp = _HIGH_UP_BP if sample_bp > calibration.high_bp else -_HIGH_DOWN_BP
    calibration.high_bp = min(max(calibration.high_bp + step_bp, BP_PER_UNIT), _SAMPLE_MAX_BP)
