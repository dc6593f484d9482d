"""What a what-if tells: who would have gone another way, what limits would have been passed, and the difference."""

from __future__ import annotations

from typing import Literal

import msgspec

from palyra.events.usage import UsageRecorded

Verdict = Literal["same", "rerouted", "newly_blocked", "newly_approval", "newly_admitted", "undecidable"]
VERDICTS: tuple[Verdict, ...] = (
    "same",
    "rerouted",
    "newly_blocked",
    "newly_approval",
    "newly_admitted",
    "undecidable",
)
#: Runs that are listed with both reasons.
LISTED_MAX_COUNT = 1_000


class Differing(msgspec.Struct, frozen=True, kw_only=True):
    """One run that would have gone another way."""

    run_id: str
    position: int
    at_us: int
    principal_id: str
    model_requested: str
    verdict: Verdict
    #: `provider/model` that served, or the code of the refusal; and what led to it.
    before: str
    after: str
    reasons_before: list[str]
    reasons_after: list[str]
    #: The rule that stops it now, or did.
    policy_id: str = ""
    #: What serving it is now beside what was asked for: degrade, upgrade, switch, failover; "" where it is refused.
    action: str = ""


class Sums(msgspec.Struct, kw_only=True):
    """What something cost then, and would have cost."""

    runs: int = 0
    before_nanousd: int = 0
    after_nanousd: int = 0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of the other rules that would have been passed."""

    policy_id: str
    subject: str
    at_us: int
    run_id: str
    kind: Literal["soft", "hard"]
    consumed: int
    requested: int
    limit: int


class WhatIfReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the other rules would have made of a journal."""

    runs: int
    counts: dict[str, int]
    #: Of those who are rerouted: by a rule that leaves some models to them, and to a cheaper or lesser one at all.
    downgraded: int
    degraded: int
    #: Where deciding again under the recorded rules gave something else; such a report proves nothing.
    unfaithful_count: int
    unfaithful_positions: list[int]
    cost_before_nanousd: int
    cost_after_nanousd: int
    #: The change, and how far it may lie off because of requests that were never made.
    delta_nanousd: int
    delta_lower_nanousd: int
    delta_upper_nanousd: int
    #: Rows whose cost is not known, then and now; they are in no sum.
    unpriced_before: int
    unpriced_after: int
    by_model: dict[str, Sums]
    by_policy: dict[str, Sums]
    limits: list[Told]
    differing: list[Differing]
    omitted_count: int


class Tally:
    """The report as it comes together."""

    def __init__(self, listed_max_count: int = LISTED_MAX_COUNT) -> None:
        self._listed_max_count = listed_max_count
        self._counts = dict.fromkeys(VERDICTS, 0)
        self._downgraded = self._degraded = 0
        self._unfaithful: list[int] = []
        self._differing: list[Differing] = []
        self._omitted_count = 0
        self._limits: list[Told] = []
        self._by_model: dict[str, Sums] = {}
        self._by_policy: dict[str, Sums] = {}
        self._all = Sums()
        self._spread_nanousd = [0, 0]
        self._unpriced = [0, 0]

    def count_same(self) -> None:
        self._counts["same"] += 1

    def add(self, one: Differing, *, is_downgraded: bool = False) -> None:
        """Note a run that goes another way."""
        self._counts[one.verdict] += 1
        self._downgraded += is_downgraded
        self._degraded += one.action == "degrade"
        if one.policy_id:
            self._by_policy.setdefault(one.policy_id, Sums()).runs += 1
        if len(self._differing) < self._listed_max_count:
            self._differing.append(one)
        else:
            self._omitted_count += 1

    def take_back(self, verdict: Verdict) -> None:
        """Take a verdict back that another one follows."""
        self._counts[verdict] -= 1

    def doubt(self, position: int) -> None:
        """Note that deciding again gave something else than was recorded at a position."""
        self._unfaithful.append(position)

    def tell(self, told: Told) -> None:
        """Note a limit that would have been passed."""
        if len(self._limits) < self._listed_max_count:
            self._limits.append(told)

    def spread(self, lower_nanousd: int, upper_nanousd: int) -> None:
        """Note how far a cost that was made up may lie off."""
        self._spread_nanousd[0] += lower_nanousd
        self._spread_nanousd[1] += upper_nanousd

    def sum(self, before: UsageRecorded | None, after: UsageRecorded | None, policy_id: str = "") -> None:
        """Add what a row cost and would have cost to every sum that it belongs to."""
        for row, side in ((before, 0), (after, 1)):
            if row is None:
                continue
            self._unpriced[side] += row.cost_nanousd is None
            cost = row.known_nanousd if row.cost_nanousd is None else row.cost_nanousd
            model = self._by_model.setdefault(f"{row.provider_id}/{row.model_id}", Sums())
            sums = [self._all, model]
            if policy_id:
                sums.append(self._by_policy.setdefault(policy_id, Sums()))
            for one in sums:
                if side:
                    one.after_nanousd += cost
                else:
                    one.before_nanousd += cost
                    one.runs += one is model

    def report(self) -> WhatIfReport:
        lower, upper = self._spread_nanousd
        delta = self._all.after_nanousd - self._all.before_nanousd
        return WhatIfReport(
            runs=sum(self._counts.values()),
            counts={name: self._counts[name] for name in VERDICTS},
            downgraded=self._downgraded,
            degraded=self._degraded,
            unfaithful_count=len(self._unfaithful),
            unfaithful_positions=self._unfaithful[:20],
            cost_before_nanousd=self._all.before_nanousd,
            cost_after_nanousd=self._all.after_nanousd,
            delta_nanousd=delta,
            delta_lower_nanousd=delta + lower,
            delta_upper_nanousd=delta + upper,
            unpriced_before=self._unpriced[0],
            unpriced_after=self._unpriced[1],
            by_model=dict(sorted(self._by_model.items())),
            by_policy=dict(sorted(self._by_policy.items())),
            limits=self._limits,
            differing=self._differing,
            omitted_count=self._omitted_count,
        )
