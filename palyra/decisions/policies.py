"""Rules as people write them: read from plain data, refused with everything that is wrong, set and retired."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import msgspec

from palyra.decisions.overrides import BadAmount, Fault, read_instant_us, read_usd
from palyra.decisions.strange_keys import OF_RULES, unknown_key
from palyra.decisions.windows import counted_window, rolling_start_us
from palyra.errors import Refusal
from palyra.events.base import Draft
from palyra.events.budgets import (
    BudgetPolicyCounted,
    BudgetPolicyRetired,
    BudgetPolicySet,
    CountedSubject,
    IntervalKind,
    Matched,
    MetricKind,
    ScopeKind,
    UsageBudgetPolicyRecord,
)
from palyra.events.usage import UsageCorrected, UsageRecorded
from palyra.limits import POLICIES_MAX_COUNT
from palyra.projections.budgets import CELL_US, Where, amount_of, counting_of, subject_of
from palyra.projections.state import State

_ID_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")
_ID_MAX_CHARS = 64
_MATCHES = get_args(Matched)
_TEXT_MAX_CHARS = 512
_TOKENS_MAX_COUNT = 1 << 53
#: Subjects of one fact about what history holds.
_SUBJECTS_MAX_COUNT = 1_000
#: Key -> what it may say.
_CHOICES: dict[str, tuple[str, ...]] = {
    "scope_kind": get_args(ScopeKind),
    "metric_kind": get_args(MetricKind),
    "interval_kind": get_args(IntervalKind),
    "token_count": ("all", "uncached", "output"),
    "week_start": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    "on_hard": ("block", "approval_required", "downgrade"),
    "on_unpriced": ("deny", "allow"),
    "sizing": ("worst_case", "strict"),
    "mode": ("enforced", "dry_run", "suggest"),
}
_REQUIRED = ("policy_id", "scope_kind", "metric_kind", "interval_kind")
_DOWNGRADE_ONLY = 'means something with on_hard = "downgrade" only'
#: Keys that mean something for some rules only: which, and what is said about the others.
_WITHOUT_EFFECT: dict[str, tuple[Callable[[Mapping[str, Any]], bool], str]] = {
    "token_count": (lambda row: row.get("metric_kind") == "tokens", "means something for tokens only"),
    "rolling_hours": (lambda row: row.get("interval_kind") == "rolling", "means something for rolling only"),
    "week_start": (lambda row: row.get("interval_kind") == "weekly", "means something for weekly only"),
    "month_day": (lambda row: row.get("interval_kind") == "monthly", "means something for monthly only"),
    "timezone": (
        lambda row: row.get("interval_kind") in ("daily", "weekly", "monthly"),
        "means something for days, weeks and months only",
    ),
    "scope_id": (lambda row: row.get("scope_kind") != "global", "means nothing for the scope global"),
    "on_unpriced": (lambda row: row.get("metric_kind") == "usd_cost", "means something for usd_cost only"),
    "on_hard": (lambda row: row.get("hard_limit") is not None, "means something with a hard limit only"),
    "downgrade_to": (
        lambda row: row.get("on_hard") == "downgrade",
        'means something with on_hard = "downgrade" only',
    ),
    "ceiling_limit": (
        lambda row: row.get("on_hard") == "downgrade",
        'means something with on_hard = "downgrade" only',
    ),
    "shrink_output": (lambda row: row.get("hard_limit") is not None, "means something with a hard limit only"),
}
_FLAGS = {"shrink_output": True, "enabled": True}
#: Every key that a rule may have.
POLICY_KEYS = (
    *_REQUIRED, "scope_id", "match", "token_count", "rolling_hours", "timezone", "week_start", "month_day",
    "soft_limit", "hard_limit", "on_hard", "downgrade_to", "ceiling_limit", "on_unpriced", "sizing",
    "shrink_output", "mode", "effective_from", "enabled",
)  # fmt: skip


def read_policies(
    rows: Sequence[Mapping[str, Any]], *, timezone: str, is_zone: Callable[[str], bool], managed_by: str
) -> tuple[list[UsageBudgetPolicyRecord], list[Fault]]:
    """Return the rules, and everything that is wrong with them."""
    records: list[UsageBudgetPolicyRecord] = []
    faults: list[Fault] = []
    for index, row in enumerate(rows):
        record, found = read_policy(row, timezone=timezone, is_zone=is_zone, managed_by=managed_by)
        faults += [fault._replace(path=(index, *fault.path)) for fault in found]
        if record is None:
            continue
        if any(record.policy_id == other.policy_id for other in records):
            faults.append(Fault((index, "policy_id"), "duplicate_policy", "is another rule's name already"))
        records.append(record)
    if len(rows) > POLICIES_MAX_COUNT:
        faults.append(Fault((), "limit_policies", f"must be at most {POLICIES_MAX_COUNT} rules"))
    return records, faults


def room_for(state: State, policy_id: str) -> Refusal | None:
    """Return why a rule cannot be set: there are as many as there may be. One in force may always be changed."""
    rules = state.budgets.policies
    if policy_id in rules or len(rules) < POLICIES_MAX_COUNT:
        return None
    message = f"There are {POLICIES_MAX_COUNT} rules already; retire one first."
    return Refusal(code="limit_policies", message=message)


def read_policy(
    row: Mapping[str, Any], *, timezone: str, is_zone: Callable[[str], bool], managed_by: str
) -> tuple[UsageBudgetPolicyRecord | None, list[Fault]]:
    """Return one rule, or everything that is wrong with it; `timezone` is that of a rule that names none."""
    faults: list[Fault] = []

    def fault(code: str, message: str, *path: str | int) -> None:
        faults.append(Fault(path, code, message))

    for name in row:
        if name not in POLICY_KEYS:
            fault("unknown_key", unknown_key(name, POLICY_KEYS, OF_RULES), name)
    for name in _REQUIRED:
        if name not in row:
            fault("missing_key", "must be set", name)
    fields: dict[str, Any] = {"timezone": timezone, "managed_by": managed_by}
    for name, choices in _CHOICES.items():
        if name in row:
            fields[name] = row[name]
            if row[name] not in choices:
                fault("bad_enum", f"must be one of {', '.join(choices)}", name)
    for name in _FLAGS:
        if name in row:
            fields[name] = row[name]
            if not isinstance(row[name], bool):
                fault("wrong_type", "must be true or false", name)
    for name, (has_effect, message) in _WITHOUT_EFFECT.items():
        if name in row and not has_effect(row):
            fault("setting_without_effect", message, name)
    _read_names(row, fields, is_zone, fault)
    _read_numbers(row, fields, fault)
    if faults:
        return None, faults
    if fields["metric_kind"] == "usd_cost":
        fields.setdefault("on_unpriced", "deny" if fields.get("hard_limit") is not None else "allow")
    return UsageBudgetPolicyRecord(**fields), []


def _read_names(
    row: Mapping[str, Any], fields: dict[str, Any], is_zone: Callable[[str], bool], fault: Callable[..., None]
) -> None:
    name = row.get("policy_id")
    if "policy_id" in row:
        fields["policy_id"] = name
        if not isinstance(name, str) or not 1 <= len(name) <= _ID_MAX_CHARS or not _ID_CHARS.issuperset(name):
            fault("bad_policy_id", f"must be 1 to {_ID_MAX_CHARS} of a-z 0-9 . _ -", "policy_id")
        elif name.startswith("request."):
            fault("bad_policy_id", "names that begin with request. are ours", "policy_id")
    scope_id = row.get("scope_id", "")
    fields["scope_id"] = scope_id
    if not isinstance(scope_id, str) or len(scope_id) > _TEXT_MAX_CHARS:
        fault("wrong_type", f"must be a text of at most {_TEXT_MAX_CHARS} characters", "scope_id")
    elif not scope_id and row.get("scope_kind") in _CHOICES["scope_kind"][1:]:
        fault("missing_key", "must be an id, or * for a counter of each", "scope_id")
    wanted = row.get("match", {})
    fields["match"] = wanted
    if not isinstance(wanted, dict):
        fault("wrong_type", "must be a table of texts", "match")
        return
    for key, value in wanted.items():
        if key not in _MATCHES:
            fault("unknown_key", f"must be one of {', '.join(_MATCHES)}", "match", key)
        elif not isinstance(value, str):
            fault("wrong_type", "must be a text", "match", key)
    zone = row.get("timezone")
    if zone is not None:
        fields["timezone"] = zone
        if not isinstance(zone, str) or not is_zone(zone):
            fault("unknown_zone", "must be an IANA name such as Europe/Prague", "timezone")


def _read_numbers(row: Mapping[str, Any], fields: dict[str, Any], fault: Callable[..., None]) -> None:
    for name, low, high in (("rolling_hours", 1, 744), ("month_day", 1, 28)):
        if name in row:
            fields[name] = row[name]
            if type(row[name]) is not int or not low <= row[name] <= high:
                fault("out_of_range", f"must be {low} to {high}", name)
    if row.get("interval_kind") == "rolling" and "rolling_hours" not in row:
        fault("missing_key", "must be set for an interval that rolls", "rolling_hours")
    for name in ("soft_limit", "hard_limit", "ceiling_limit"):
        if name in row:
            _read_limit(row, fields, name, fault)
    _read_downgrade(row, fields, fault)
    soft, hard = fields.get("soft_limit"), fields.get("hard_limit")
    if "soft_limit" not in row and "hard_limit" not in row:
        fault("missing_key", "must have a limit: soft_limit, hard_limit, or both", "hard_limit")
    elif row.get("interval_kind") == "per_run" and "hard_limit" not in row:
        fault("missing_key", "must be set where each request has its own limit", "hard_limit")
    elif soft is not None and hard is not None and soft > hard:
        fault("soft_above_hard", "must not be above the hard limit", "soft_limit")
    if "effective_from" in row:
        try:
            fields["effective_from_us"] = read_instant_us(row["effective_from"])
        except BadAmount:
            fault("bad_instant", "must be a date or an RFC 3339 instant", "effective_from")


def _read_downgrade(row: Mapping[str, Any], fields: dict[str, Any], fault: Callable[..., None]) -> None:
    """Read what is left to those who are past the hard limit."""
    models = row.get("downgrade_to")
    if row.get("on_hard") == "downgrade" and not models:
        fault("missing_key", "must name the models that are left past the limit, or free", "downgrade_to")
    if models is not None:
        fields["downgrade_to"] = models
        if not isinstance(models, list) or not all(isinstance(name, str) and name for name in models):
            fault("wrong_type", "must be a list of model names, or free", "downgrade_to")
    hard, ceiling = fields.get("hard_limit"), fields.get("ceiling_limit")
    if isinstance(hard, int) and isinstance(ceiling, int) and ceiling <= hard:
        fault("ceiling_below_hard", "must be above the hard limit", "ceiling_limit")


def _read_limit(row: Mapping[str, Any], fields: dict[str, Any], name: str, fault: Callable[..., None]) -> None:
    value = row[name]
    if row.get("metric_kind") == "usd_cost":
        try:
            fields[name] = read_usd(value, max_usd=1_000_000_000)
        except BadAmount as bad:
            fault(bad.code.replace("price_", "limit_"), str(bad), name)
    elif type(value) is not int or not 0 <= value <= _TOKENS_MAX_COUNT:
        fault(
            "limit_negative" if type(value) is int and value < 0 else "wrong_type", "must be a whole number", name
        )
    else:
        fields[name] = value


# -- set and retire


def set_policy(
    state: State,
    record: UsageBudgetPolicyRecord,
    counted: Sequence[CountedSubject],
    *,
    by: str,
) -> list[Draft]:
    """Put a rule in force, with what its windows hold already; nothing where this very rule is in force.

    `counted` is what its `HistoryCount` has found; it is looked at where the rule counts otherwise than before.
    """
    before = state.budgets.policies.get(record.policy_id)
    if before is not None and before.record == record:
        return []
    revision = state.budgets.revisions.get(record.policy_id, 0) + 1
    stream = f"budget-{record.policy_id}"
    drafts = [Draft(stream, BudgetPolicySet(revision=revision, policy=record, by=by))]
    if before is None or counting_of(before.record) != counting_of(record):
        for first in range(0, len(counted), _SUBJECTS_MAX_COUNT):
            part = list(counted[first : first + _SUBJECTS_MAX_COUNT])
            drafts.append(Draft(stream, BudgetPolicyCounted(revision=revision, subjects=part)))
    return drafts


def retire_policy(state: State, policy_id: str, *, by: str, reason: Any = "retired") -> list[Draft]:
    """Take a rule out of force; nothing where there is none of this name."""
    policy = state.budgets.policies.get(policy_id)
    if policy is None:
        return []
    retired = BudgetPolicyRetired(revision=policy.revision + 1, reason=reason, by=by)
    return [Draft(f"budget-{policy_id}", retired)]


def adopt_policies(
    state: State,
    records: Sequence[UsageBudgetPolicyRecord],
    counted: Mapping[str, Sequence[CountedSubject]],
) -> list[Draft]:
    """Put the rules of a file in force, and take those out of force that have gone from it.

    `counted` is what was found of history for each of them, by name, where anything was.
    """
    drafts: list[Draft] = []
    names = [record.policy_id for record in records]
    for policy_id, policy in state.budgets.policies.items():
        if policy.record.managed_by == "file" and policy_id not in names:
            drafts += retire_policy(state, policy_id, by="config", reason="gone_from_file")
    for record in records:
        drafts += set_policy(state, record, counted.get(record.policy_id, ()), by="config")
    return drafts


def needs_history(state: State, records: Sequence[UsageBudgetPolicyRecord]) -> bool:
    """Return whether a rule among these counts otherwise than what is in force."""
    known = {policy_id: counting_of(policy.record) for policy_id, policy in state.budgets.policies.items()}
    return any(known.get(record.policy_id) != counting_of(record) for record in records)


class HistoryCount:
    """What was used in the window that is open now, by subject: what a rule would have counted, row by row."""

    def __init__(self, record: UsageBudgetPolicyRecord, now_us: int) -> None:
        self._record = record
        self.window = window = counted_window(record, now_us)
        since_us = rolling_start_us(record, now_us) if record.interval_kind == "rolling" else window.start_us
        self._since_us = max(since_us, record.effective_from_us)
        self._sums: dict[str, CountedSubject] = {}
        self._cells: dict[str, dict[int, int]] = {}

    def is_of(self, now_us: int) -> bool:
        """Return whether the window that is open at an instant is still the one that is counted."""
        return counted_window(self._record, now_us) == self.window

    def add(self, row: UsageRecorded | UsageCorrected) -> None:
        """Count a row, if it is one of the rule's and of the window."""
        record, window = self._record, self.window
        if record.interval_kind == "per_run" or not self._since_us <= row.effective_at_us < window.end_us:
            return
        subject = subject_of(record, row, Where(row.provider_id, row.model_id))
        if subject is None:
            return
        amount = amount_of(record.meter, row)
        before = self._sums.get(subject) or CountedSubject(
            subject=subject, window_start_us=window.start_us, window_end_us=window.end_us
        )
        is_unpriced = isinstance(row, UsageRecorded) and row.cost_nanousd is None
        self._sums[subject] = msgspec.structs.replace(
            before, amount=before.amount + amount, unpriced_runs=before.unpriced_runs + is_unpriced
        )
        if record.interval_kind == "rolling":
            own = self._cells.setdefault(subject, {})
            at_us = row.effective_at_us - row.effective_at_us % CELL_US
            own[at_us] = own.get(at_us, 0) + amount

    @property
    def found(self) -> list[CountedSubject]:
        """Every subject that was counted."""
        return [
            msgspec.structs.replace(one, cells=self._cells.get(subject, {})) for subject, one in self._sums.items()
        ]
