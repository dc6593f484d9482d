"""Alerts: what the state says that somebody should know, raised once, cleared when its cause has gone.

Each rule finds what is bad enough to raise, and what is no longer bad enough for that and still too bad to clear;
between the two an open alert stays. Evaluated at intervals, never by reading. Source: governance specification 10.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

from palyra.decisions.credential_alerts import closed_vault
from palyra.decisions.findings import Finding
from palyra.decisions.spend_alerts import spend_findings
from palyra.errors import Refusal
from palyra.events.alerts import AlertAcknowledged, AlertCleared, AlertRaised, AlertSeverity
from palyra.events.base import Draft
from palyra.events.budgets import BudgetSoftLimitCrossed
from palyra.limits import ALERT_FACTS_MAX_COUNT
from palyra.projections.alerts import Alert, Beyond, PassedLimit, is_open, newest_alert, open_alerts
from palyra.projections.approvals import approvals_of, status_of
from palyra.projections.budgets import PER_RUN_END_US
from palyra.projections.circuits import circuit_of
from palyra.projections.health import evidence_of, health_of
from palyra.projections.pricing import price_at
from palyra.projections.state import State
from palyra.units import BP_PER_UNIT, NANOUSD_PER_USD, US_PER_S

_DAY_US = 24 * 3_600 * US_PER_S
_UNAVAILABLE_US = 60 * US_PER_S
_SEVERITIES: tuple[AlertSeverity, ...] = ("info", "warning", "danger", "critical")
#: An overshoot that somebody should know: beyond a hundredth of the hold, and this much.
_BEYOND_TOKENS, _BEYOND_NANOUSD, _BEYOND_SHARE = 1_000, NANOUSD_PER_USD // 100, 100
_BEYOND_OFTEN_COUNT = 10
#: Output whose size nobody told us.
_ESTIMATED_ROWS_COUNT, _ESTIMATED_RAISE_BP, _ESTIMATED_KEEP_BP = 20, 500, 200


def evaluate_alerts(state: State, now_us: int, standing: Sequence[Finding] = ()) -> list[Draft]:
    """Return what is raised, made worse and cleared; `standing` is what the state cannot know."""
    found = {one.dedupe_key: one for one in (*_findings(state, now_us), *standing)}
    raised = (_raise(state, one, now_us) for one in found.values() if one.is_onset)
    cleared = [
        Draft(f"alert-{alert.alert_id}", AlertCleared(reason_code="ended"))
        for alert in open_alerts(state, now_us)
        if alert.raised.dedupe_key not in found
    ]
    return [*(draft for draft in raised if draft is not None), *cleared]


def _raise(state: State, finding: Finding, now_us: int) -> Draft | None:
    """Return the alert of a finding, unless one is open that says as much."""
    assert len(finding.facts) <= ALERT_FACTS_MAX_COUNT, f"{finding.dedupe_key} says too much"
    before = newest_alert(state, finding.dedupe_key)
    recurrence = 0 if before is None else before.raised.recurrence + 1
    alert_id = sha256(f"{finding.dedupe_key}|{recurrence}|{now_us}".encode()).hexdigest()[:16]
    if before is not None and is_open(before, now_us):
        if _SEVERITIES.index(finding.severity) <= _SEVERITIES.index(before.raised.severity):
            return None
        alert_id, recurrence = before.alert_id, before.raised.recurrence
    raised = AlertRaised(
        dedupe_key=finding.dedupe_key,
        kind=finding.kind,
        severity=finding.severity,
        subject_kind=finding.subject_kind,
        subject_id=finding.subject_id,
        recurrence=recurrence,
        facts=finding.facts,
        because_positions=list(finding.because),
        recommended_action=finding.action,
        valid_until_us=finding.until_us,
        dry_run=finding.dry_run,
    )
    return Draft(f"alert-{alert_id}", raised)


def acknowledge(alert: Alert, now_us: int) -> list[Draft] | Refusal:
    """Note that somebody has seen an alert; nothing where that was noted before."""
    if not is_open(alert, now_us):
        return Refusal(code="alert_cleared", message="Its cause has gone; there is nothing to acknowledge.")
    if alert.acknowledged_us is not None:
        return []
    return [Draft(f"alert-{alert.alert_id}", AlertAcknowledged())]


def _findings(state: State, now_us: int) -> Iterator[Finding]:
    for passed in state.alerts.limits.values():
        yield from _of_limit(state, passed, now_us)
    yield from _of_prices(state, now_us)
    yield from _of_overshoots(state, now_us)
    yield from _of_providers(state, now_us)
    yield from _of_estimates(state, now_us)
    yield from closed_vault(state)
    yield from spend_findings(state, now_us)


def _of_limit(state: State, passed: PassedLimit, now_us: int) -> Iterator[Finding]:
    told, policy_id = passed.told, passed.policy_id
    # A window without an end is told about for a day.
    until_us = told.window_end_us if told.window_end_us < PER_RUN_END_US else passed.at_us + _DAY_US
    is_soft = isinstance(told, BudgetSoftLimitCrossed)
    granted = (
        status_of(one, now_us) == "granted"
        for one in approvals_of(state, policy_id, told.subject, told.window_start_us)
    )
    if now_us >= until_us or (not is_soft and any(granted)):
        return
    # Each run has its own window, and they are all one matter.
    subject = "" if told.window_end_us == PER_RUN_END_US else told.subject
    is_dry = told.verdict.startswith("would_")
    yield Finding(
        kind="budget_soft" if is_soft else "budget_hard",
        key=f"{policy_id}:{subject}:{told.window_start_us}",
        severity="warning" if is_soft else "info" if is_dry else "danger",
        subject_kind="policy",
        subject_id=policy_id,
        facts={
            "subject": subject,
            "metric": state.budgets.policies[policy_id].record.metric_kind,
            "limit": told.limit,
            "consumed": told.consumed,
            "reserved": told.reserved,
            "requested": told.requested,
            "verdict": told.verdict,
        },
        because=[passed.position],
        action="raise_or_grant",
        until_us=until_us,
        dry_run=is_dry,
    )


def _of_prices(state: State, now_us: int) -> Iterator[Finding]:
    served = {f"{one.provider_id}/{one.model_id}" for one in state.catalog.registry.models}
    for key in state.pricing.missing:
        name, _, variant = key.partition("|")
        provider_id, _, model_id = name.partition("/")
        if name in served and price_at(state, provider_id, model_id, now_us, variant) is None:
            yield Finding(
                kind="price_missing",
                key=f"{provider_id}:{model_id}",
                severity="warning",
                subject_kind="model",
                subject_id=name,
                facts={"variant": variant},
                action="add_price",
            )


def _is_far(one: Beyond) -> bool:
    is_long = one.tokens > _BEYOND_TOKENS and one.tokens * _BEYOND_SHARE > one.held_tokens
    return is_long or (one.nanousd > _BEYOND_NANOUSD and one.nanousd * _BEYOND_SHARE > one.held_nanousd)


def _of_overshoots(state: State, now_us: int) -> Iterator[Finding]:
    for name, all_ in state.alerts.overshoots.items():
        far = [one for one in all_ if one.at_us > now_us - _DAY_US and _is_far(one)]
        if far:
            yield Finding(
                kind="overshoot",
                key=name.replace("/", ":", 1),
                severity="warning" if len(far) >= _BEYOND_OFTEN_COUNT else "info",
                subject_kind="model",
                subject_id=name,
                facts={
                    "count": len(far),
                    "tokens": max(one.tokens for one in far),
                    "nanousd": max(one.nanousd for one in far),
                },
                because=[one.position for one in far],
                action="check_provider",
            )


def _of_providers(state: State, now_us: int) -> Iterator[Finding]:
    registry = state.catalog.registry
    healths = {one.provider_id: health_of(state, one, now_us) for one in registry.providers}
    up = {name for name, health in healths.items() if health not in ("unavailable", "disabled")}
    for provider_id, health in healths.items():
        circuit, evidence = circuit_of(state, provider_id), evidence_of(state, provider_id)
        is_down = health == "unavailable" or circuit.status != "closed"
        if health == "disabled" or not (is_down or health == "degraded"):
            continue
        since_us = evidence.changed_us if evidence.recorded == "unavailable" else now_us
        roles = {one.role for one in registry.models if one.provider_id == provider_id and one.enabled}
        others = {one.role for one in registry.models if one.provider_id in up - {provider_id} and one.enabled}
        yield Finding(
            kind="provider_health",
            key=provider_id,
            severity="warning" if roles <= others else "danger",
            subject_kind="provider",
            subject_id=provider_id,
            facts={"health": health, "circuit": circuit.status, "last_error": evidence.last_error},
            action="check_provider",
            is_onset=circuit.status == "open" or (health == "unavailable" and now_us - since_us >= _UNAVAILABLE_US),
        )


def _of_estimates(state: State, now_us: int) -> Iterator[Finding]:
    sums: dict[str, list[int]] = {}
    for start_us, cells in state.usage.cells.items():
        if start_us <= now_us - _DAY_US:
            continue
        for key, cell in cells.items():
            own = sums.setdefault(key.partition("|")[0], [0, 0, 0])
            own[0] += cell.rows_count
            own[1] += cell.output_tokens
            own[2] += cell.estimated_output_tokens
    for provider_id, (rows, output, estimated) in sums.items():
        share_bp = estimated * BP_PER_UNIT // output if output else 0
        if rows >= _ESTIMATED_ROWS_COUNT and share_bp > _ESTIMATED_KEEP_BP:
            yield Finding(
                kind="usage_estimated",
                key=provider_id,
                severity="info",
                subject_kind="provider",
                subject_id=provider_id,
                facts={"share_bp": share_bp, "rows": rows},
                action="check_provider",
                is_onset=share_bp > _ESTIMATED_RAISE_BP,
            )
