"""Moments of a journal: what `--as-of` may say, and which position and instant that is.

The state of a moment is the fold of the events up to its position; its instant stands for "now". Parsing is pure;
resolving reads the journal. Synchronous and read-only, beside a live daemon or without one.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

import msgspec

from palyra.engine.history import find_run
from palyra.errors import PalyraError
from palyra.journal.lock import LockState
from palyra.journal.port import Reader
from palyra.projections.daemon import current_boot
from palyra.projections.state import State
from palyra.units import US_PER_S

#: The forms, as they are named to whoever wrote another one.
FORMS = "12345, 2026-11-20T10:00:00Z, 2026-11-20, -90m, run:ID, boot, 12345@2026-11-20T10:00:00Z"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_POSITION = re.compile(r"[0-9]{1,18}", re.ASCII)
_AGO = re.compile(r"-([0-9]{1,9})([smhd])", re.ASCII)
_AGO_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
#: RFC 3339, whose offset and seconds may be left out.
_INSTANT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?)([Zz]|[+-][0-9]{2}:[0-9]{2})?)?",
    re.ASCII,
)


class AsOf(msgspec.Struct, frozen=True, kw_only=True):
    """What a text says about a moment: a position, an instant, a run's end or the last start; or the first two."""

    position: int | None = None
    instant_us: int | None = None
    #: Before now.
    ago_us: int | None = None
    run: str = ""
    is_boot: bool = False


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A place in one journal, and the instant that stands for "now" there."""

    position: int
    as_of_us: int


def parse_as_of(text: str, zone: tzinfo | None) -> AsOf:
    """Return what `text` says; an instant without an offset is one of `zone` (None: the machine's own).

    Raises `usage_error` for a text of no form.
    """
    position, at, instant = text.partition("@")
    if _POSITION.fullmatch(position):
        return AsOf(position=int(position), instant_us=_instant_us(instant, text, zone) if at else None)
    if (ago := ago_of(text)) is not None:
        return AsOf(ago_us=ago)
    if text == "boot":
        return AsOf(is_boot=True)
    if text.startswith("run:") and len(text) > 4:
        return AsOf(run=text[4:])
    return AsOf(instant_us=_instant_us(text, text, zone))


def ago_of(text: str) -> int | None:
    """Return how long before now `-90m` is; None of a text that says something else."""
    ago = _AGO.fullmatch(text)
    return None if ago is None else int(ago[1]) * _AGO_S[ago[2]] * US_PER_S


def instant_of(text: str, zone: tzinfo | None) -> int:
    """Return an instant in RFC 3339 or the beginning of a day; raises `ValueError`."""
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is no instant.")
    date, clock, offset = match[1], match[2] or "00:00", (match[3] or "").upper().replace("Z", "+00:00")
    moment = datetime.fromisoformat(f"{date}T{clock}{offset}")
    # A zone of its own, else the configured one, else the machine's.
    aware = moment if offset else moment.replace(tzinfo=zone) if zone is not None else moment.astimezone()
    return (aware - _EPOCH) // timedelta(microseconds=1)


def _instant_us(text: str, whole: str, zone: tzinfo | None) -> int:
    try:
        return instant_of(text, zone)
    except (ValueError, OverflowError):
        raise PalyraError(
            f"'{whole}' is no position and no instant.", hint=f"one of: {FORMS}", code="usage_error"
        ) from None


def resolve_as_of(reader: Reader, as_of: AsOf, now_us: int) -> Moment:
    """Return the moment that is meant, seen at `now_us`.

    Raises `as_of_in_future`, `position_not_found` and `run_not_found`.
    """
    instant_us = as_of.instant_us if as_of.ago_us is None else now_us - as_of.ago_us
    if instant_us is not None and instant_us > now_us:
        raise PalyraError("That instant is yet to come.", hint="the journal knows the past", code="as_of_in_future")
    position = _position(reader, as_of, instant_us)
    if instant_us is None:
        row = reader.row(position)
        instant_us = reader.created_at_us if row is None else row.recorded_at_us
    return Moment(position=position, as_of_us=instant_us)


def _position(reader: Reader, as_of: AsOf, instant_us: int | None) -> int:
    if as_of.run:
        run_id = find_run(reader, as_of.run)
        return max(row.position for rows in reader.stream(f"run-{run_id}") for row in rows)
    if as_of.is_boot:
        starts = [row.position for rows in reader.stream("daemon") for row in rows if row.name == "daemon.started"]
        if not starts:
            raise PalyraError("No daemon has written this journal.", code="position_not_found")
        return starts[-1]
    if as_of.position is None:
        assert instant_us is not None
        return reader.position_at(instant_us)
    head = reader.head().position
    if as_of.position > head:
        raise PalyraError(f"The journal ends at position {head}.", code="position_not_found")
    return as_of.position


def lock_then(state: State) -> LockState:
    """Return who wrote the journal when this state was the newest, as far as the log tells.

    That a process died is told only by the start after it, so at its last event it still runs.
    """
    boot = current_boot(state)
    return LockState(is_locked=boot is not None and not boot.ended, holder=None)
