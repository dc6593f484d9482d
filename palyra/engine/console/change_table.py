"""Everything that can be changed, one row each, sorted by path."""

from __future__ import annotations

from typing import Any

from palyra.engine.budget_questions import BudgetAnswer
from palyra.engine.console import (
    alerts,
    approvals,
    auth,
    budgets,
    changes,
    config,
    corrections,
    keys,
    models,
    oauth,
    pricing,
    privacy,
    runs,
    vault,
    verdicts,
)
from palyra.engine.price_questions import RecostAnswer
from palyra.engine.questions import AlertAnswer

CONFIG_RELOAD = changes.Change(
    "POST", "config/reload", config.ReloadParams, config.ReloadAnswer, config.reload, needs_daemon=True
)
ALERT_ACK = changes.Change(
    "POST", "alerts/{alert}/ack", alerts.AlertParams, AlertAnswer, alerts.acknowledge_alert, scope="usage:write"
)
APPROVAL_DECIDE = changes.Change(
    "POST",
    "approvals/{approval}/decide",
    approvals.DecideParams,
    approvals.ApprovalView,
    approvals.decide,
    scope="approvals:decide",
)
BUDGET_CREATE = changes.Change(
    "POST",
    "budgets",
    budgets.CreateParams,
    BudgetAnswer,
    budgets.create_budget,
    scope="usage:write",
    http_status=201,
)
BUDGET_OVERRIDE = changes.Change(
    "POST",
    "budgets/{policy}/override-request",
    approvals.OverrideParams,
    approvals.ApprovalView,
    approvals.override_request,
    scope="usage:write",
)
BUDGET_RETIRE = changes.Change(
    "DELETE", "budgets/{policy}", budgets.RetireParams, BudgetAnswer, budgets.retire_budget, scope="usage:write"
)
BUDGET_SET = changes.Change(
    "PUT", "budgets/{policy}", budgets.SetParams, BudgetAnswer, budgets.set_budget, scope="usage:write"
)
JOURNAL_VERDICT = changes.Change(
    "POST", "journal/verdicts", verdicts.VerdictParams, verdicts.VerdictAnswer, verdicts.record_verdict
)
AUTH_CONNECT = changes.Change(
    "POST",
    "auth/providers/{provider}/api-key",
    auth.ConnectParams,
    auth.ActionResult,
    auth.connect,
    "secrets:write",
    begins=True,
    adopts=True,
    http_status=201,
)
AUTH_COOLDOWN_CLEAR = changes.Change(
    "POST",
    "auth/profiles/{id}/cooldown/clear",
    auth.ProfileParams,
    auth.ActionResult,
    auth.clear_cooldown,
    "secrets:write",
)
AUTH_DEFAULT = changes.Change(
    "POST", "auth/profiles/{id}/default", auth.ProfileParams, auth.ActionResult, auth.set_default, "secrets:write"
)
AUTH_DISABLE = changes.Change(
    "POST", "auth/profiles/{id}/disable", auth.ProfileParams, auth.ActionResult, auth.disable, "secrets:write"
)
AUTH_ENABLE = changes.Change(
    "POST", "auth/profiles/{id}/enable", auth.ProfileParams, auth.ActionResult, auth.enable, "secrets:write"
)
AUTH_ORDER_SET = changes.Change(
    "PUT", "auth/profile-order", auth.OrderParams, auth.OrderAnswer, auth.set_order, "secrets:write"
)
AUTH_REBIND = changes.Change(
    "POST",
    "auth/profiles/{id}/rebind",
    auth.RebindParams,
    auth.ActionResult,
    auth.rebind,
    "secrets:write",
    adopts=True,
)
AUTH_REFRESH = changes.Change(
    "POST", "auth/profiles/{id}/refresh", auth.ProfileParams, auth.ActionResult, oauth.refresh, "secrets:write"
)
AUTH_LOGIN = changes.Change(
    "POST",
    "auth/providers/openai/bootstrap",
    oauth.BootstrapParams,
    oauth.StartedAnswer,
    oauth.bootstrap,
    "secrets:write",
    begins=True,
    adopts=True,
    http_status=201,
)
AUTH_LOGIN_AGAIN = changes.Change(
    "POST",
    "auth/providers/openai/reconnect",
    oauth.ReconnectParams,
    oauth.StartedAnswer,
    oauth.reconnect,
    "secrets:write",
    adopts=True,
    http_status=201,
)
AUTH_LOGIN_CANCEL = changes.Change(
    "POST",
    "auth/providers/openai/attempts/{id}/cancel",
    oauth.AttemptParams,
    oauth.AttemptView,
    oauth.cancel,
    "secrets:write",
)
AUTH_LOGIN_COMPLETE = changes.Change(
    "POST",
    "auth/providers/openai/complete",
    oauth.CompleteParams,
    oauth.AttemptView,
    oauth.complete,
    "secrets:write",
    adopts=True,
)
AUTH_REVOKE = changes.Change(
    "POST", "auth/profiles/{id}/revoke", auth.RevokeParams, auth.ActionResult, auth.revoke, "secrets:write"
)
AUTH_ROTATE = changes.Change(
    "POST",
    "auth/profiles/{id}/rotate",
    auth.KeyParams,
    auth.ActionResult,
    auth.rotate,
    "secrets:write",
    adopts=True,
)
AUTH_VALIDATE = changes.Change(
    "POST",
    "auth/profiles/{id}/validate",
    auth.ProfileParams,
    auth.ActionResult,
    auth.validate,
    "secrets:write",
    adopts=True,
)
KEY_CHANGE = changes.Change(
    "PATCH", "keys/{key}", keys.ChangeParams, keys.KeyView, keys.change_key, scope="keys:manage"
)
KEY_ISSUE = changes.Change(
    "POST",
    "keys",
    keys.IssueParams,
    keys.KeyAnswer,
    keys.issue_key,
    scope="keys:manage",
    repeated=keys.without_secret,
    begins=True,
    http_status=201,
)
KEY_REVOKE = changes.Change(
    "POST", "keys/{key}/revoke", keys.RevokeParams, keys.KeyView, keys.revoke_key, scope="keys:manage"
)
KEY_ROTATE = changes.Change(
    "POST",
    "keys/{key}/rotate",
    keys.RotateParams,
    keys.KeyAnswer,
    keys.rotate_key,
    scope="keys:manage",
    repeated=keys.without_secret,
)
MODELS_CIRCUIT = changes.Change(
    "POST", "models/circuit", models.CircuitParams, models.CircuitAnswer, models.circuit, needs_daemon=True
)
MODELS_DEFAULT = changes.Change(
    "POST", "models/default", models.DefaultParams, models.DefaultAnswer, models.set_default
)
MODELS_DISCOVER = changes.Change(
    "POST", "models/discover", models.ProviderParams, models.DiscoveriesAnswer, models.discover, asks_providers=True
)
MODELS_TEST = changes.Change(
    "POST", "models/test", models.ProviderParams, models.TestsAnswer, models.test, asks_providers=True
)
PRICING_RECOST = changes.Change(
    "POST", "pricing/recost", pricing.RecostParams, RecostAnswer, pricing.recost_usage, scope="usage:write"
)
PRIVACY_ERASE = changes.Change("POST", "privacy/erase", privacy.EraseParams, privacy.ErasedAnswer, privacy.erase)
RUN_CANCEL = changes.Change(
    "POST", "runs/{run}/cancel", runs.CancelParams, runs.CancelAnswer, runs.cancel, needs_daemon=True
)
USAGE_CORRECT = changes.Change(
    "POST",
    "usage/corrections",
    corrections.CorrectParams,
    corrections.CorrectAnswer,
    corrections.correct_usage,
    scope="usage:write",
)
VAULT_REKEY = changes.Change(
    "POST", "vault/rekey", vault.RekeyParams, vault.VaultStatusAnswer, vault.rekey, "secrets:write"
)
VAULT_SECRET_DELETE = changes.Change(
    "DELETE", "vault/secrets", vault.DeleteSecretParams, vault.DeletedAnswer, vault.delete, "secrets:write"
)
VAULT_SECRET_PUT = changes.Change(
    "PUT", "vault/secrets", vault.PutSecretParams, vault.SecretAnswer, vault.put, "secrets:write", begins=True
)
VAULT_VERIFY = changes.Change(
    "POST", "vault/verify", vault.VerifyParams, vault.VaultStatusAnswer, vault.verify, "secrets:write"
)

CHANGES: tuple[changes.Change[Any, Any], ...] = (
    ALERT_ACK,
    APPROVAL_DECIDE,
    CONFIG_RELOAD,
    BUDGET_CREATE,
    BUDGET_OVERRIDE,
    BUDGET_RETIRE,
    BUDGET_SET,
    JOURNAL_VERDICT,
    AUTH_CONNECT,
    AUTH_COOLDOWN_CLEAR,
    AUTH_DEFAULT,
    AUTH_DISABLE,
    AUTH_ENABLE,
    AUTH_ORDER_SET,
    AUTH_REBIND,
    AUTH_LOGIN,
    AUTH_LOGIN_AGAIN,
    AUTH_LOGIN_CANCEL,
    AUTH_LOGIN_COMPLETE,
    AUTH_REFRESH,
    AUTH_REVOKE,
    AUTH_ROTATE,
    AUTH_VALIDATE,
    KEY_CHANGE,
    KEY_ISSUE,
    KEY_REVOKE,
    KEY_ROTATE,
    MODELS_CIRCUIT,
    MODELS_DEFAULT,
    MODELS_DISCOVER,
    MODELS_TEST,
    PRICING_RECOST,
    PRIVACY_ERASE,
    RUN_CANCEL,
    USAGE_CORRECT,
    VAULT_REKEY,
    VAULT_SECRET_DELETE,
    VAULT_SECRET_PUT,
    VAULT_VERIFY,
)
