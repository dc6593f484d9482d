"""Everything that can be asked and changed, one row each, sorted by path."""

from __future__ import annotations

from typing import Any

from palyra.engine.console import (
    changes,
    config,
    frame,
    journal,
    keys,
    models,
    pricing,
    runs,
    status,
    vault,
    verdicts,
)
from palyra.engine.history import EventAnswer, RunReport
from palyra.engine.inspection import FiguresAnswer
from palyra.engine.price_questions import PricingAnswer
from palyra.engine.questions import ModelsAnswer, RunAnswer, StatusAnswer

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
MODELS = frame.Question("models", models.ModelsParams, ModelsAnswer, models.models)
PRICING = frame.Question("pricing", pricing.PricingParams, PricingAnswer, pricing.pricing)
RUNS = frame.Question("runs", runs.RunsParams, frame.Items[RunAnswer], runs.runs)
RUN = frame.Question("runs/{run}", runs.RunParams, RunReport, runs.run, source="rows")
RUN_EXPLAIN = frame.Question(
    "runs/{run}/explain", runs.ExplainParams, runs.ExplainAnswer, runs.explain, source="rows"
)
STATUS = frame.Question("status", status.StatusParams, StatusAnswer, status.status)
VAULT_SECRETS = frame.Question(
    "vault/secrets", vault.SecretsParams, frame.Items[vault.SecretAnswer], vault.secrets, scope="secrets:write"
)
VAULT_STATUS = frame.Question("vault/status", vault.VaultStatusParams, vault.VaultStatusAnswer, vault.status)

QUESTIONS: tuple[frame.Question[Any, Any], ...] = (
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
    PRICING,
    RUNS,
    RUN,
    RUN_EXPLAIN,
    STATUS,
    VAULT_SECRETS,
    VAULT_STATUS,
)

CONFIG_RELOAD = changes.Change(
    "POST", "config/reload", config.ReloadParams, config.ReloadAnswer, config.reload, needs_daemon=True
)
JOURNAL_VERDICT = changes.Change(
    "POST", "journal/verdicts", verdicts.VerdictParams, verdicts.VerdictAnswer, verdicts.record_verdict
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
RUN_CANCEL = changes.Change(
    "POST", "runs/{run}/cancel", runs.CancelParams, runs.CancelAnswer, runs.cancel, needs_daemon=True
)
VAULT_REKEY = changes.Change(
    "POST", "vault/rekey", vault.RekeyParams, vault.VaultStatusAnswer, vault.rekey, "secrets:write"
)
VAULT_SECRET_DELETE = changes.Change(
    "DELETE", "vault/secrets", vault.DeleteSecretParams, vault.DeletedAnswer, vault.delete, "secrets:write"
)
VAULT_SECRET_PUT = changes.Change(
    "PUT", "vault/secrets", vault.PutSecretParams, vault.SecretAnswer, vault.put, "secrets:write"
)
VAULT_VERIFY = changes.Change(
    "POST", "vault/verify", vault.VerifyParams, vault.VaultStatusAnswer, vault.verify, "secrets:write"
)

CHANGES: tuple[changes.Change[Any, Any], ...] = (
    CONFIG_RELOAD,
    JOURNAL_VERDICT,
    KEY_CHANGE,
    KEY_ISSUE,
    KEY_REVOKE,
    KEY_ROTATE,
    RUN_CANCEL,
    VAULT_REKEY,
    VAULT_SECRET_DELETE,
    VAULT_SECRET_PUT,
    VAULT_VERIFY,
)
