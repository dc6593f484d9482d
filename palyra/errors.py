"""The error tree, and the one table from a code to its HTTP status and exit status.

::

    PalyraError
    ├── Refused                 a command was refused: carries a `Refusal`, the value that policy decided
    ├── ConfigInvalid           the configuration has problems; all of them are in it
    ├── StateError              the state directory, a lock or a key file is not as it must be
    │   └── JournalLocked       another process writes this journal
    ├── JournalError
    │   ├── JournalUnwritable   the disk refused an append; nothing acts until it is taken again
    │   ├── JournalUnreadable   the file cannot be opened or read
    │   ├── JournalDamaged      the file contradicts itself or its witness
    │   └── JournalNewer        written by a newer release
    ├── VaultError              the vault cannot do what was asked; it is never the end of the daemon
    ├── SecretInEvent           a fact would have held a secret; nothing was recorded
    ├── EngineStopped           the engine takes no commands any more
    └── TransportFailed         a call to a provider ended without a usable answer

A refusal is an answer, not an accident: it is a value (`Refusal`) as long as possible and becomes the exception
`Refused` only to leave the engine. Exceptions mean a bug, the disk or the network.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple, TypeVar

import msgspec

FoundT = TypeVar("FoundT")


class Code(NamedTuple):
    """What a code means to an HTTP client and to a shell."""

    http_status: int
    exit_code: int


_CODES: dict[tuple[int, int], str] = {
    (400, 2): (
        "invalid_json invalid_request invalid_header unknown_palyra_header unsupported_parameter"
        " previous_response_unknown"
        " conflicting_credentials context_window_exceeded max_model_tokens_per_event_exceeded"
        " content_policy_blocked image_url_unsupported tool_arguments_not_json"
        " unsupported_feature capability_missing model_role_mismatch as_of_in_future bad_path"
        " invalid_query invalid_policy unknown_field usage_error import_damaged import_partial"
        " invalid_vault_ref own_key_as_upstream_credential config_not_editable"
        " invalid_api_key_format invalid_export oauth_state_mismatch"
    ),
    (400, 3): "invalid_credential",
    (400, 6): "address_refused",
    (401, 3): (
        "missing_client_key invalid_client_key expired_client_key wrong_key_kind missing_session invalid_login"
    ),
    (402, 6): (
        "budget_approval_denied budget_approval_required budget_request_too_large budget_unpriced"
        " limit_applicable_policies"
    ),
    (403, 6): (
        "four_eyes managed_secret missing_scope binding_violation origin_refused"
        " scope_escalation model_not_permitted peer_not_allowed csrf_refused insecure_login oauth_session_mismatch"
    ),
    (404, 8): (
        "model_not_found model_disabled route_not_found run_not_found config_not_found position_not_found"
        " alert_not_found approval_not_found budget_policy_not_found price_list_not_found"
        " secret_not_found"
        " usage_not_found key_not_found session_not_found profile_not_found provider_not_found attempt_not_found"
    ),
    (405, 5): "method_not_allowed",
    (409, 7): (
        "already_decided alert_cleared"
        " conflict drift_found idempotency_in_progress idempotency_result_gone in_the_past journal_locked"
        " managed_by_file stale_revision usage_differs"
        " address_in_use insecure_permissions vault_key_missing needs_space"
        " upgrade_due upgrade_needs_space config_outdated"
        " capsule_too_large capsule_differs"
        " config_changed_meanwhile limit_policies too_many_secrets vault_backend_mismatch vault_busy"
        " last_admin_key"
        " validation_not_permitted unverifiable profile_exists profile_provider_mismatch profile_revoked"
        " too_many_profiles credentials_ill oauth_not_configured oauth_in_progress not_refreshable"
        " reauth_required login_failed content_not_captured"
    ),
    (412, 7): "position_not_reached",
    (413, 2): "body_too_large value_too_large",
    (415, 2): "unsupported_media_type",
    (421, 7): "bad_host",
    (422, 2): "idempotency_key_reused config_invalid principal_reserved unsafe_bind",
    (429, 4): (
        "all_credentials_cooling client_rate_limited login_locked rate_limited too_many_streams too_many_attempts"
    ),
    (429, 6): "budget_blocked",
    (499, 4): "client_disconnected cancelled",
    (500, 1): "internal secret_in_event",
    (501, 5): "extra_missing journal_newer unsupported_version",
    (502, 4): (
        "upstream_failed upstream_auth upstream_permission upstream_quota transient_upstream"
        " network_unavailable dns_failed tls_failed malformed_response stream_truncated response_too_large"
        " model_unavailable netguard_blocked redirect_refused fixture_missing"
        " unexpected_response"
    ),
    (503, 4): (
        "all_circuits_open no_candidate provider_queue_full concurrency_timeout"
        " gateway_busy draining too_many_connections overloaded engine_stopped missing_credential interrupted"
        " limit_open_holds"
        " bridge_full bridge_closed no_usable_credential provider_unavailable refresh_failed"
    ),
    (503, 7): "journal_unwritable journal_unreadable journal_damaged secret_damaged vault_locked vault_unreadable",
    (504, 4): (
        "fold_timeout timeout_connect timeout_first_byte timeout_idle timeout_total run_deadline bridge_timeout"
    ),
    (508, 4): "gateway_loop",
    (0, 3): "credential_refused",
    (0, 5): "no_model_list",
    (0, 7): "provider_unwell replay_not_faithful",
    (0, 4): "daemon_not_running",
}
#: code -> HTTP status and exit status; every code that Palyra answers stands here, and nowhere else.
CODES: dict[str, Code] = {name: Code(*pair) for pair, names in _CODES.items() for name in names.split()}


class Refusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A decision not to do what was asked. `code` is a key of `CODES`."""

    #: Key of `CODES`; the same word in the answer, in the journal and in CLI JSON.
    code: str
    #: One sentence for a person: what is wrong and the way out.
    message: str
    #: Field of the request that is at fault.
    param: str | None = None
    #: When a repeat can succeed.
    retry_after_ms: int | None = None
    #: Figures for the answer's ``palyra`` object; JSON values only.
    details: dict[str, Any] = {}

    @property
    def http_status(self) -> int:
        return CODES[self.code].http_status

    @property
    def exit_code(self) -> int:
        return CODES[self.code].exit_code


def reason_of(error: OSError) -> str:
    """Return what the system says, without what libraries wrap around it."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


class PalyraError(Exception):
    """Something went wrong inside Palyra."""

    code = "internal"

    def __init__(self, message: str | None = None, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message or self.__doc__ or self.code)
        self.hint = hint
        if code is not None:
            self.code = code

    @property
    def http_status(self) -> int:
        return CODES[self.code].http_status

    @property
    def exit_code(self) -> int:
        return CODES[self.code].exit_code


class Refused(PalyraError):
    """The command was refused."""

    def __init__(self, refusal: Refusal, *, run_id: str | None = None) -> None:
        super().__init__(refusal.message, code=refusal.code)
        self.refusal = refusal
        self.run_id = run_id


def or_refuse(found: FoundT | Refusal) -> FoundT:
    """Return what was found; raises `Refused` where that is a refusal."""
    if isinstance(found, Refusal):
        raise Refused(found)
    return found


class ConfigInvalid(PalyraError):
    """The configuration has problems."""

    code = "config_invalid"


class StateError(PalyraError):
    """The state directory is not as it must be."""

    code = "insecure_permissions"


class JournalLocked(StateError):
    """Another process writes this journal."""

    code = "journal_locked"


class JournalError(PalyraError):
    """The journal cannot do what was asked."""

    code = "journal_unreadable"


class JournalUnwritable(JournalError):
    """The journal cannot be written; nothing is done that could not be recorded."""

    code = "journal_unwritable"


class JournalUnreadable(JournalError):
    """The journal cannot be read."""

    code = "journal_unreadable"


class JournalDamaged(JournalError):
    """The journal contradicts itself or its witness."""

    code = "journal_damaged"


class JournalNewer(JournalError):
    """The journal was written by a newer release."""

    code = "journal_newer"


class VaultError(PalyraError):
    """The vault cannot be opened."""

    code = "vault_locked"


class SecretInEvent(PalyraError):
    """A fact would have held a secret."""

    code = "secret_in_event"


class EngineStopped(PalyraError):
    """The engine has stopped and takes no commands."""

    code = "engine_stopped"


class TransportFailed(PalyraError):
    """A call to a provider ended without a usable answer."""

    code = "network_unavailable"

    def __init__(self, failure_class: str, phase: str, message: str) -> None:
        """`failure_class` is a class of `palyra.decisions.failures`, `phase` one of connect, headers, body."""
        super().__init__(message, code=failure_class if failure_class in CODES else "network_unavailable")
        self.failure_class = failure_class
        self.phase = phase
        self.message = message
