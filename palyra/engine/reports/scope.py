"""What a report is about: a stretch of time, a calendar, filters, and what it is grouped by."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo
from typing import Literal, NamedTuple, get_args

from palyra.engine.moments import ago_of, instant_of
from palyra.engine.reports.calendar import BUCKETS, DAY_US, Bucket, Calendar, auto_bucket, local_zone
from palyra.engine.zones import find_zone
from palyra.errors import Refusal, Refused
from palyra.events.runs import RunAdmitted, RunRefused
from palyra.events.usage import UsageCorrected, UsageRecorded

WINDOW_MAX_DAYS = 400
DEFAULT_DAYS = 30
BUCKETS_MAX_COUNT = 2_000
GROUPS_MAX_COUNT = 4

#: Attributes of a request that figures can be grouped by, in the order of `Where`.
Dimension = Literal["principal", "key", "session", "agent", "provider", "model", "endpoint", "origin", "task_class"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
#: Whatever figures can be grouped by.
GROUPS: tuple[str, ...] = ("hour", "day", "week", "month", *DIMENSIONS)
#: Who pays for work of our own.
SYSTEM_PRINCIPAL = "system:daemon"
#: Work of one's own, which nobody waits for; everything else is somebody's.
_CLASSES = {"cron": "background", "task": "background", "probe": "background", "memory": "auxiliary"}

#: Who, with what, where, through whom: values of `DIMENSIONS`.
Where = tuple[str, str, str, str, str, str, str, str, str]


def where_of(
    row: RunAdmitted | RunRefused | UsageRecorded | UsageCorrected, provider_id: str, model_id: str
) -> Where:
    """Return the attributes of a fact that says by itself whose it is."""
    return (
        row.principal_id,
        row.key_id,
        row.session_id,
        row.agent_id,
        provider_id,
        model_id,
        row.endpoint,
        row.origin,
        class_of(row.origin),
    )


def class_of(origin: str) -> str:
    """Return the class of requests that come from somewhere, where they name no other."""
    return _CLASSES.get(origin, "interactive")


class Filters(NamedTuple):
    """Exact values that must hold; "" for anything."""

    principal_id: str = ""
    key_id: str = ""
    session_id: str = ""
    agent_id: str = ""
    provider_id: str = ""
    model_id: str = ""
    endpoint: str = ""
    origin: str = ""

    def wanted(self) -> list[tuple[int, str]]:
        """Return place in a `Where` and value of each one that is given."""
        return [(place, value) for place, value in enumerate(self) if value]


EVERYTHING = Filters()


class Scope(NamedTuple):
    """What is counted: half open, by the instant at which a request was let in."""

    from_us: int
    to_us: int
    zone: tzinfo
    filters: Filters

    def calendar(self, bucket: str) -> Calendar:
        """Return the buckets that are asked for; `auto` goes by the length. Raises `Refused` for too many."""
        known: Bucket = auto_bucket(self.to_us - self.from_us) if bucket == "auto" else _bucket(bucket)
        calendar = Calendar(known, self.zone)
        if len(calendar.between(self.from_us, self.to_us, BUCKETS_MAX_COUNT)) > BUCKETS_MAX_COUNT:
            message = f"That are more than {BUCKETS_MAX_COUNT:,} buckets; ask for longer ones or less time."
            raise _refused("bucket", message)
        return calendar


def scope_of(
    *,
    from_: str,
    to: str,
    timezone: str,
    zone: tzinfo | None,
    now_us: int,
    filters: Filters = EVERYTHING,
) -> Scope:
    """Return what is asked for; "" stands for the last 30 days, and for the asker's zone. Raises `Refused`."""
    if timezone:
        try:
            zone = find_zone(timezone)
        except ValueError as exc:
            raise _refused("timezone", f"{exc} Write an IANA name such as Europe/Prague, UTC, or local.") from None
    # What happens at this very instant is in.
    to_us = instant_in(to, "to", zone, now_us) if to else now_us + 1
    from_us = instant_in(from_, "from", zone, now_us) if from_ else to_us - DEFAULT_DAYS * DAY_US
    if from_us >= to_us:
        raise _refused("from", "'from' must lie before 'to'.")
    if to_us - from_us > (WINDOW_MAX_DAYS + 1) * DAY_US:
        raise _refused("from", f"A window is at most {WINDOW_MAX_DAYS} days long.")
    return Scope(from_us, to_us, local_zone(zone), filters)


def groups_of(names: Sequence[str]) -> list[str]:
    """Return what to group by, checked; raises `Refused`."""
    for name in names:
        if name not in GROUPS:
            raise _refused("group_by", f"'{name}' is nothing to group by; {', '.join(GROUPS)} are.")
    if len(set(names)) != len(names) or len(names) > GROUPS_MAX_COUNT:
        raise _refused("group_by", f"Group by at most {GROUPS_MAX_COUNT} different things.")
    if sum(name in BUCKETS for name in names) > 1:
        raise _refused("group_by", "One of hour, day, week and month is enough.")
    return list(names)


def _bucket(name: str) -> Bucket:
    for bucket in BUCKETS:
        if bucket == name:
            return bucket
    raise _refused("bucket", f"'{name}' is no bucket; auto, {', '.join(BUCKETS)} are.")


def instant_in(text: str, param: str, zone: tzinfo | None, now_us: int) -> int:
    """Return the instant that a parameter names; raises `Refused`."""
    ago_us = ago_of(text)
    if ago_us is not None:
        return now_us - ago_us
    try:
        return instant_of(text, zone)
    except ValueError:
        message = f"'{text}' is no instant; write 2026-11-20, 2026-11-20T10:00:00Z or -7d."
        raise _refused(param, message) from None


def _refused(param: str, message: str) -> Refused:
    return Refused(Refusal(code="invalid_query", message=message, param=param))
