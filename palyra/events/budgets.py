"""Budgets: rules in streams `budget-<policy_id>`, and what attempts hold of them in the stream of their run."""

from __future__ import annotations

from typing import Literal

import msgspec

from palyra.events.base import Fact

ScopeKind = Literal["global", "principal", "session", "agent", "provider", "model"]
MetricKind = Literal["tokens", "usd_cost"]
IntervalKind = Literal["daily", "weekly", "monthly", "rolling", "per_run"]
#: What a hold counts in: nano-USD, or tokens of one of three kinds.
Meter = Literal["usd_cost", "all", "uncached", "output"]
#: What a rule may ask of a request beside its scope.
Matched = Literal[
    "principal_id", "key_id", "session_id", "agent_id", "provider_id", "model_id", "endpoint", "origin"
]  # fmt: skip


class UsageBudgetPolicyRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A rule: what may be used of something in an interval, and what happens beyond it."""

    policy_id: str
    scope_kind: ScopeKind
    #: The exact id, or `*`: one counter for each id. "" for global.
    scope_id: str = ""
    #: More that must hold, by name and exact value.
    match: dict[Matched, str] = {}
    metric_kind: MetricKind
    token_count: Literal["all", "uncached", "output"] = "all"
    interval_kind: IntervalKind
    rolling_hours: int | None = None
    #: IANA name of the zone in which days begin.
    timezone: str = "UTC"
    week_start: Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"] = "monday"
    month_day: int = 1
    #: Nano-USD or tokens.
    soft_limit: int | None = None
    hard_limit: int | None = None
    #: What happens past the hard limit: it stops, or what somebody grants passes, or only these models
    #: may be used: `provider/model`, a model's name, or `free` for whatever costs nothing. The ceiling stops them
    #: too.
    on_hard: Literal["block", "approval_required", "downgrade"] = "block"
    downgrade_to: list[str] = []
    ceiling_limit: int | None = None
    #: What happens to a request whose cost cannot be told.
    on_unpriced: Literal["deny", "allow"] = "allow"
    #: Input at its calibrated bound, or at a token for each byte; output at the maximum that is sent upstream.
    sizing: Literal["worst_case", "strict"] = "worst_case"
    #: Whether an answer without a maximum of the client's may be kept short so that it fits.
    shrink_output: bool = True
    mode: Literal["enforced", "dry_run", "suggest"] = "enforced"
    #: Use before this instant does not count.
    effective_from_us: int = 0
    enabled: bool = True
    managed_by: Literal["file", "journal"] = "journal"

    @property
    def meter(self) -> Meter:
        return "usd_cost" if self.metric_kind == "usd_cost" else self.token_count


class BudgetPolicySet(Fact, tag="budget_policy.set", frozen=True, kw_only=True):
    """A rule is in force from here on, in place of the one of this name if there was one."""

    revision: int
    policy: UsageBudgetPolicyRecord
    by: str


class CountedSubject(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What was used in the window that was open when a rule was set."""

    subject: str
    window_start_us: int
    window_end_us: int
    amount: int = 0
    #: Of a rolling window: amounts by start of the quarter of an hour.
    cells: dict[int, int] = {}
    unpriced_runs: int = 0


class BudgetPolicyCounted(Fact, tag="budget_policy.counted", frozen=True, kw_only=True):
    """History was folded once for a rule that was set after it; a long list comes in several parts."""

    revision: int
    subjects: list[CountedSubject]


class BudgetPolicyRetired(Fact, tag="budget_policy.retired", frozen=True, kw_only=True):
    """A rule is in force no more."""

    revision: int
    reason: Literal["retired", "gone_from_file"] = "retired"
    by: str


class BudgetShare(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The share of a reservation in one rule's window."""

    policy_id: str
    revision: int
    subject: str
    meter: Meter
    window_start_us: int
    window_end_us: int
    amount: int
    #: The grant that it draws on; "" within the limit.
    approval_id: str = ""


class BudgetReserved(Fact, tag="budget.reserved", frozen=True, kw_only=True):
    """Rules keep this much for the attempt that follows. Where none applies to it nothing is kept, nor recorded."""

    attempt: int = 1
    expires_us: int
    #: One for each rule that applies.
    shares: list[BudgetShare]


class Overshoot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What an attempt used beyond its share of a rule."""

    policy_id: str
    subject: str
    amount: int


class Returned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What an attempt has drawn on a grant and not used."""

    approval_id: str
    amount: int


class BudgetReleased(Fact, tag="budget.released", frozen=True, kw_only=True):
    """The hold of an ended attempt was let go; what was really used has been counted by its usage."""

    attempt: int = 1
    because: Literal["settled", "cancelled", "expired", "abandoned"] = "settled"
    overshoots: list[Overshoot] = []
    returned: list[Returned] = []


class BudgetSoftLimitCrossed(Fact, tag="budget.soft_limit_crossed", frozen=True, kw_only=True):
    """A run has passed the soft limit, the first one in its window."""

    revision: int
    subject: str
    window_start_us: int
    window_end_us: int
    consumed: int
    reserved: int
    requested: int
    limit: int
    run_id: str
    verdict: str


class BudgetHardLimitReached(Fact, tag="budget.hard_limit_reached", frozen=True, kw_only=True):
    """A run did not fit under the hard limit, the first one in its window."""

    revision: int
    subject: str
    window_start_us: int
    window_end_us: int
    consumed: int
    reserved: int
    requested: int
    limit: int
    run_id: str
    verdict: str
