"""Alerts about spending: a leap of the cost, another mix of models, money for failures, doors that are shut.

A leap is measured against the median of the hours in which anything was spent, over the week before it; without
eight such hours nothing is said. Source: governance specification 10, gateway specification 6.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from palyra.decisions.findings import Finding
from palyra.projections.alerts import open_alerts
from palyra.projections.spend import HOUR_US
from palyra.projections.state import State
from palyra.projections.usage import CELL_US
from palyra.units import BP_PER_UNIT, NANOUSD_PER_USD

_WEEK_HOURS, _DAY_HOURS = 7 * 24, 24
_DAY_US = _DAY_HOURS * HOUR_US
_SOME_NANOUSD = NANOUSD_PER_USD // 2
#: A leap: this many times the median, and half of that often for it to be over.
_SPIKE_TIMES, _BAD_SPIKE_TIMES, _SPIKE_HOURS_COUNT = 3, 10, 8
_MIX_RUNS_COUNT, _MIX_RAISE_BP, _MIX_KEEP_BP = 50, 4_000, 2_500
_ABSORBED_RAISE_BP, _ABSORBED_KEEP_BP = 1_000, 500


def spend_findings(state: State, now_us: int) -> Iterator[Finding]:
    """Return what is to be said about spending."""
    yield from _of_spikes(state, now_us)
    yield from _of_mix(state, now_us)
    yield from _of_absorbed(state, now_us)
    yield from _of_turned(state, now_us)


def spend_due_us(state: State, done_us: int) -> int | None:
    """Return when the quarter of the newest spending is over, None where it was already when it was looked at."""
    newest_us = next(reversed(state.usage.cells), None)
    return None if newest_us is None or newest_us + CELL_US <= done_us else newest_us + CELL_US


# -- a leap of the cost


def _of_spikes(state: State, now_us: int) -> Iterator[Finding]:
    end_us = now_us - now_us % CELL_US
    now, before = _spent(state, end_us), _spent(state, end_us - CELL_US)
    noted = {one.raised.subject_id for one in open_alerts(state, now_us) if one.raised.kind == "cost_spike"}
    suspects = {name: None for name, spent in now.items() if spent >= _SOME_NANOUSD or name in noted}
    suspects |= dict.fromkeys(name for name in before if name in noted)
    for name in suspects:
        spent, median = now.get(name, 0), _median(state, name, end_us - HOUR_US)
        # It is over when it was over twice running.
        if median is None or 2 * max(spent, before.get(name, 0)) < _SPIKE_TIMES * median:
            continue
        yield Finding(
            kind="cost_spike",
            key=name or "global",
            severity="danger" if spent >= _BAD_SPIKE_TIMES * median else "warning",
            subject_kind="principal" if name else "global",
            subject_id=name,
            facts={"spent_nanousd": spent, "median_nanousd": median, "since_us": end_us - HOUR_US},
            action="look_at_usage",
            is_onset=spent >= _SPIKE_TIMES * median and spent - median >= _SOME_NANOUSD,
        )


def _spent(state: State, end_us: int) -> dict[str, int]:
    """Return what was spent in the four quarters before an instant, by principal and, under "", by all."""
    sums: dict[str, int] = {}
    for start_us in range(end_us - HOUR_US, end_us, CELL_US):
        for key, cell in state.usage.cells.get(start_us, {}).items():
            for name in ("", key.split("|")[2]):
                sums[name] = sums.get(name, 0) + cell.cost_nanousd
    return sums


def _median(state: State, name: str, end_us: int) -> int | None:
    """Return what an hour with spending costs, in the week before an instant; None where they are too few."""
    last_us = end_us - end_us % HOUR_US
    starts = range(last_us - _WEEK_HOURS * HOUR_US, last_us, HOUR_US)
    hours = (state.spend.hours[start_us] for start_us in starts if start_us in state.spend.hours)
    sums = sorted(spent for hour in hours if (spent := hour.spent_nanousd.get(name, 0)) > 0)
    if len(sums) < _SPIKE_HOURS_COUNT:
        return None
    half = len(sums) // 2
    return sums[half] if len(sums) % 2 else (sums[half - 1] + sums[half]) // 2


# -- another mix of models


class _Mix(NamedTuple):
    tokens: dict[str, int]
    rows_count: int
    total: int


def _of_mix(state: State, now_us: int) -> Iterator[Finding]:
    day_us = now_us - now_us % HOUR_US - (_DAY_HOURS - 1) * HOUR_US
    now, before = _mix(state, day_us, now_us + 1), _mix(state, day_us - _WEEK_HOURS * HOUR_US, day_us)
    if min(now.rows_count, before.rows_count) < _MIX_RUNS_COUNT or not now.total or not before.total:
        return
    changes = {
        name: now.tokens.get(name, 0) * before.total - before.tokens.get(name, 0) * now.total
        for name in {**now.tokens, **before.tokens}
    }
    whole = now.total * before.total
    shift_bp = sum(map(abs, changes.values())) * BP_PER_UNIT // (2 * whole)
    if shift_bp < _MIX_KEEP_BP:
        return
    most = max(changes, key=lambda name: (changes[name], name))
    yield Finding(
        kind="model_mix",
        key="global",
        severity="warning",
        subject_kind="global",
        facts={"shift_bp": shift_bp, "model": most, "gained_bp": changes[most] * BP_PER_UNIT // whole},
        action="look_at_usage",
        is_onset=shift_bp >= _MIX_RAISE_BP,
    )


def _mix(state: State, from_us: int, to_us: int) -> _Mix:
    tokens: dict[str, int] = {}
    rows_count = 0
    for start_us, hour in state.spend.hours.items():
        if from_us <= start_us < to_us:
            for name, one in hour.models.items():
                tokens[name] = tokens.get(name, 0) + one.tokens
                rows_count += one.rows_count
    return _Mix(tokens, rows_count, sum(tokens.values()))


# -- what failures cost


def _of_absorbed(state: State, now_us: int) -> Iterator[Finding]:
    sums: dict[str, list[int]] = {}
    for start_us, hour in state.spend.hours.items():
        if start_us <= now_us - _DAY_US:
            continue
        for name, one in hour.providers.items():
            own = sums.setdefault(name, [0, 0])
            own[0] += one.spent_nanousd
            own[1] += one.absorbed_nanousd
    for provider_id, (spent, absorbed) in sums.items():
        if absorbed * BP_PER_UNIT > spent * _ABSORBED_KEEP_BP:
            yield Finding(
                kind="absorbed",
                key=provider_id,
                severity="warning",
                subject_kind="provider",
                subject_id=provider_id,
                facts={"absorbed_nanousd": absorbed, "spent_nanousd": spent},
                action="check_provider",
                is_onset=absorbed * BP_PER_UNIT > spent * _ABSORBED_RAISE_BP and absorbed > _SOME_NANOUSD,
            )


def _of_turned(state: State, now_us: int) -> Iterator[Finding]:
    """Say which models turn requests away that others serve then: nobody else would notice."""
    for name, turned in state.spend.turned.items():
        if now_us - turned.at_us < _DAY_US:
            yield Finding(
                kind="access_refused",
                key=name.replace("/", ":", 1),
                severity="warning",
                subject_kind="model",
                subject_id=name,
                facts={"failure_class": turned.failure_class, "count": turned.count},
                because=[turned.position],
                action="check_credential",
            )
