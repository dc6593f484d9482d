"""Everything that can be asked, one row each, sorted by path. What can be changed is in `change_table.py`."""

from __future__ import annotations

from typing import Any

from palyra.engine.budget_checks import BudgetCheckAnswer
from palyra.engine.budget_questions import BudgetAnswer, BudgetsAnswer, HoldsAnswer
from palyra.engine.console import (
    alerts,
    approvals,
    audit,
    auth_views,
    budgets,
    config,
    exports,
    frame,
    insights,
    journal,
    keys,
    models,
    oauth,
    pricing,
    routing,
    runs,
    status,
    supposing,
    usage,
    vault,
)
from palyra.engine.history import EventAnswer, RunReport
from palyra.engine.inspection import FiguresAnswer
from palyra.engine.model_plans import PlanAnswer
from palyra.engine.model_questions import ModelsAnswer
from palyra.engine.price_questions import PriceDiffAnswer, PricingAnswer
from palyra.engine.questions import AlertAnswer, RunAnswer
from palyra.engine.reports.runs import UsageEnrichedRun
from palyra.engine.status_questions import StatusAnswer

ALERTS = frame.Question(
    "alerts", alerts.AlertsParams, frame.Items[AlertAnswer], alerts.alerts, scope="usage:read", own="principal_id"
)
ALERT = frame.Question(
    "alerts/{alert}", alerts.OneAlertParams, AlertAnswer, alerts.alert, scope="usage:read", own="principal_id"
)
APPROVALS = frame.Question(
    "approvals",
    approvals.ApprovalsParams,
    frame.Items[approvals.ApprovalView],
    approvals.approvals,
    scope="usage:read",
    own="principal_id",
)
APPROVAL = frame.Question(
    "approvals/{approval}",
    approvals.OneApprovalParams,
    approvals.ApprovalView,
    approvals.approval,
    scope="usage:read",
    own="principal_id",
)
AUTH_AUDIT = frame.Question(
    "auth/audit",
    audit.AuditParams,
    frame.Items[audit.AuditItem],
    audit.audit,
    scope="secrets:write",
    source="rows",
)
AUTH_HEALTH = frame.Question(
    "auth/health",
    auth_views.HealthParams,
    auth_views.HealthAnswer,
    auth_views.health,
    scope="secrets:write",
    tells_of_secrets=True,
)
AUTH_ORDER = frame.Question(
    "auth/profile-order", auth_views.OrderParams, auth_views.OrderView, auth_views.order, scope="secrets:write"
)
AUTH_PROFILE = frame.Question(
    "auth/profiles/{id}",
    auth_views.ProfileParams,
    auth_views.ProfileView,
    auth_views.profile,
    "secrets:write",
    tells_of_secrets=True,
)
AUTH_PROFILES = frame.Question(
    "auth/profiles",
    auth_views.ProfilesParams,
    frame.Items[auth_views.ProfileView],
    auth_views.profiles,
    scope="secrets:write",
    tells_of_secrets=True,
)
AUTH_PROVIDER = frame.Question(
    "auth/providers/{provider}",
    auth_views.ProviderParams,
    auth_views.ProviderAnswer,
    auth_views.provider,
    scope="secrets:write",
)
AUTH_EXPLAIN = frame.Question(
    "auth/selection/explain",
    auth_views.ExplainParams,
    auth_views.ExplainAnswer,
    auth_views.explain,
    scope="secrets:write",
    method="POST",
    tells_of_secrets=True,
)
BUDGETS = frame.Question(
    "budgets", budgets.BudgetsParams, BudgetsAnswer, budgets.budgets, scope="usage:read", own="principal_id"
)
BUDGET = frame.Question(
    "budgets/{policy}",
    budgets.OneBudgetParams,
    BudgetAnswer,
    budgets.budget,
    scope="usage:read",
    own="principal_id",
)
BUDGET_CHECK = frame.Question(
    "budgets/check",
    budgets.CheckParams,
    BudgetCheckAnswer,
    budgets.check,
    scope="usage:read",
    own="principal",
    method="POST",
)
BUDGET_HOLDS = frame.Question(
    "budgets/{policy}/holds",
    budgets.OneBudgetParams,
    HoldsAnswer,
    budgets.holds,
    scope="usage:read",
    own="principal_id",
)
AUTH_ATTEMPTS = frame.Question(
    "auth/attempts", frame.ListParams, frame.Items[oauth.AttemptView], oauth.attempts, scope="secrets:write"
)
AUTH_CALLBACK_STATE = frame.Question(
    "auth/providers/openai/callback-state",
    oauth.StateParams,
    oauth.AttemptView,
    oauth.callback_state,
    scope="secrets:write",
)
CONFIG = frame.Question("config", config.AdoptedParams, config.AdoptedAnswer, config.adopted)
CONFIG_DIFF = frame.Question("config/diff", config.DiffParams, config.DiffAnswer, config.diff, source="rows")
CONFIG_HISTORY = frame.Question(
    "config/history", config.HistoryParams, frame.Items[config.GenerationAnswer], config.history
)
JOURNAL_DIGEST = frame.Question(
    "journal/digests/{chapter}", journal.DigestParams, journal.DigestAnswer, journal.digest
)
JOURNAL_EVENTS = frame.Question(
    "journal/events", journal.EventsParams, frame.Items[EventAnswer], journal.events, source="rows"
)
JOURNAL_EVENT = frame.Question(
    "journal/events/{event}", journal.EventParams, frame.Items[journal.LinkedEvent], journal.event, source="rows"
)
JOURNAL_STATUS = frame.Question(
    "journal/status", journal.FiguresParams, FiguresAnswer, journal.figures, source="rows"
)
KEYS = frame.Question("keys", keys.KeysParams, frame.Items[keys.KeyView], keys.keys, scope="keys:manage")
KEY = frame.Question("keys/{key}", keys.KeyParams, keys.KeyView, keys.key, scope="keys:manage")
MODELS = frame.Question("models", models.ModelsParams, ModelsAnswer, models.models, tells_of_secrets=True)
PRICING = frame.Question("pricing", pricing.PricingParams, PricingAnswer, pricing.pricing, scope="usage:read")
PRICING_DIFF = frame.Question(
    "pricing/diff", pricing.DiffParams, PriceDiffAnswer, pricing.diff, scope="usage:read", source="rows"
)
MODELS_PLAN = frame.Question("models/plan", models.PlanParams, PlanAnswer, models.plan, tells_of_secrets=True)
ROUTING = frame.Question(
    "routing", routing.RoutingParams, routing.RoutingAnswer, routing.routing, scope="usage:read"
)
RUNS = frame.Question("runs", runs.RunsParams, frame.Items[RunAnswer], runs.runs)
RUN = frame.Question("runs/{run}", runs.RunParams, RunReport, runs.run, source="rows")
RUN_EXPLAIN = frame.Question(
    "runs/{run}/explain", runs.ExplainParams, runs.ExplainAnswer, runs.explain, source="rows"
)
STATUS = frame.Question("status", status.StatusParams, StatusAnswer, status.status, tells_of_secrets=True)
USAGE_EXPLAIN = frame.Question(
    "usage/explain",
    supposing.ExplainParams,
    PlanAnswer,
    supposing.explain_request,
    scope="usage:read",
    own="principal",
    method="POST",
)
USAGE_INSIGHTS = frame.Question(
    "usage/insights",
    insights.InsightsParams,
    insights.InsightsAnswer,
    insights.insights,
    scope="usage:read",
    source="window",
    own="principal_id",
)
USAGE_ROUTING = frame.Question(
    "usage/routing",
    routing.DecisionsParams,
    routing.DecisionsAnswer,
    routing.decisions,
    scope="usage:read",
    source="window",
    own="principal_id",
)
USAGE_ROUTING_RUN = frame.Question(
    "usage/routing/{run}",
    routing.DecisionParams,
    runs.ExplainAnswer,
    routing.decision,
    scope="usage:read",
    source="rows",
    own="principal_id",
)
USAGE_RUNS = frame.Question(
    "usage/runs",
    usage.EnrichedParams,
    frame.Items[UsageEnrichedRun],
    usage.runs,
    scope="usage:read",
    source="window",
    own="principal_id",
)
USAGE_SESSION = frame.Question(
    "usage/sessions/{id}",
    usage.SessionParams,
    usage.SessionAnswer,
    usage.session,
    scope="usage:read",
    source="window",
    own="principal_id",
)
USAGE_SUMMARY = frame.Question(
    "usage/summary",
    usage.SummaryParams,
    usage.SummaryAnswer,
    usage.summary,
    scope="usage:read",
    source="window",
    own="principal_id",
)
USAGE_TIMELINE = frame.Question(
    "usage/timeline",
    usage.TimelineParams,
    usage.TimelineAnswer,
    usage.timeline,
    scope="usage:read",
    source="window",
    own="principal_id",
)
#: Totals by one dimension each, by its name.
USAGE_GROUPS = {
    name: frame.Question(
        f"usage/{name}s",
        usage.GroupsParams,
        frame.Items[usage.GroupTotals],
        usage.groups_by(name),
        scope="usage:read",
        source="window",
        own="principal_id",
    )
    for name in ("agent", "key", "model", "principal", "provider", "session")
}
VAULT_SECRETS = frame.Question(
    "vault/secrets",
    vault.SecretsParams,
    frame.Items[vault.SecretAnswer],
    vault.secrets,
    scope="secrets:write",
    tells_of_secrets=True,
)
VAULT_STATUS = frame.Question(
    "vault/status", vault.VaultStatusParams, vault.VaultStatusAnswer, vault.status, tells_of_secrets=True
)

QUESTIONS: tuple[frame.Question[Any, Any], ...] = (
    ALERTS,
    ALERT,
    APPROVALS,
    APPROVAL,
    AUTH_ATTEMPTS,
    AUTH_AUDIT,
    AUTH_HEALTH,
    AUTH_ORDER,
    AUTH_PROFILES,
    AUTH_PROFILE,
    AUTH_CALLBACK_STATE,
    AUTH_PROVIDER,
    AUTH_EXPLAIN,
    BUDGETS,
    BUDGET_CHECK,
    BUDGET,
    BUDGET_HOLDS,
    CONFIG,
    CONFIG_DIFF,
    CONFIG_HISTORY,
    JOURNAL_DIGEST,
    JOURNAL_EVENTS,
    JOURNAL_EVENT,
    JOURNAL_STATUS,
    KEYS,
    KEY,
    MODELS,
    MODELS_PLAN,
    PRICING,
    PRICING_DIFF,
    ROUTING,
    RUNS,
    RUN,
    RUN_EXPLAIN,
    STATUS,
    USAGE_GROUPS["agent"],
    USAGE_EXPLAIN,
    USAGE_INSIGHTS,
    USAGE_GROUPS["key"],
    USAGE_GROUPS["model"],
    USAGE_GROUPS["principal"],
    USAGE_GROUPS["provider"],
    USAGE_ROUTING,
    USAGE_ROUTING_RUN,
    USAGE_RUNS,
    USAGE_GROUPS["session"],
    USAGE_SESSION,
    USAGE_SUMMARY,
    USAGE_TIMELINE,
    VAULT_SECRETS,
    VAULT_STATUS,
)

USAGE_EXPORT = frame.Download(
    "usage/export", exports.ExportParams, exports.export, scope="usage:read", own="principal_id"
)
USAGE_WHAT_IF = frame.Download(
    "usage/what-if", supposing.WhatIfParams, supposing.what_if_toml, scope="usage:read", method="POST"
)
DOWNLOADS: tuple[frame.Download[Any], ...] = (USAGE_EXPORT, USAGE_WHAT_IF)
