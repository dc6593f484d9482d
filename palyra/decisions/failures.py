"""Error classes: what a failed call means for a retry, for failover, for the breaker and for the client.

One table; phase and status decide, the text of a message only where nothing else can tell. Source: gateway
specification 6.2.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec


class FailureRule(NamedTuple):
    """A row of the table."""

    #: How often the same candidate is tried again: no, once, or up to max_retries.
    retry: Literal["no", "once", "yes"]
    #: Whether the next candidate is tried: no, yes, or only one with a larger context window.
    failover: Literal["no", "yes", "larger"]
    #: Whether the breaker counts it.
    counted: bool
    #: Code of the answer when it ends the run (key of `palyra.errors.CODES`).
    code: str


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One failed attempt, as its socket and its answer told it."""

    failure_class: str
    #: connect, headers, body (before content) or content.
    phase: str
    status: int = 0
    #: The provider's own code and message, cleaned.
    code: str = ""
    message: str = ""
    retry_after_ms: int | None = None
    #: The provider's `x-should-retry`, which overrides the retry column.
    should_retry: bool | None = None


FAILURES: dict[str, FailureRule] = {
    "rate_limited": FailureRule("yes", "yes", False, "rate_limited"),
    "overloaded": FailureRule("yes", "yes", True, "overloaded"),
    "transient_upstream": FailureRule("yes", "yes", True, "transient_upstream"),
    "conflict": FailureRule("yes", "no", False, "conflict"),
    "timeout_connect": FailureRule("yes", "yes", True, "timeout_connect"),
    "network_unavailable": FailureRule("yes", "yes", True, "network_unavailable"),
    "dns_failed": FailureRule("yes", "yes", True, "dns_failed"),
    "tls_failed": FailureRule("no", "yes", True, "tls_failed"),
    "timeout_first_byte": FailureRule("once", "yes", True, "timeout_first_byte"),
    "timeout_idle": FailureRule("no", "yes", True, "timeout_idle"),
    "timeout_total": FailureRule("no", "yes", True, "timeout_total"),
    "malformed_response": FailureRule("once", "yes", True, "malformed_response"),
    "stream_truncated": FailureRule("once", "yes", True, "stream_truncated"),
    "response_too_large": FailureRule("once", "yes", True, "response_too_large"),
    "auth_invalid": FailureRule("no", "yes", False, "upstream_auth"),
    "permission_denied": FailureRule("no", "yes", False, "upstream_permission"),
    "quota_exceeded": FailureRule("no", "yes", False, "upstream_quota"),
    "model_unavailable": FailureRule("no", "yes", False, "model_unavailable"),
    "context_window_exceeded": FailureRule("no", "larger", False, "context_window_exceeded"),
    "content_policy_blocked": FailureRule("no", "no", False, "content_policy_blocked"),
    "unsupported_feature": FailureRule("no", "yes", False, "unsupported_feature"),
    "invalid_request": FailureRule("no", "no", False, "invalid_request"),
    "netguard_blocked": FailureRule("no", "yes", False, "netguard_blocked"),
    "redirect_refused": FailureRule("no", "yes", False, "redirect_refused"),
    "missing_credential": FailureRule("no", "yes", False, "missing_credential"),
    "vault_locked": FailureRule("no", "yes", False, "vault_locked"),
    "no_credential": FailureRule("no", "yes", False, "no_usable_credential"),
    "budget_excluded": FailureRule("no", "yes", False, "budget_blocked"),
    "circuit_open": FailureRule("no", "yes", False, "all_circuits_open"),
    "model_excluded": FailureRule("no", "yes", False, "no_candidate"),
    "provider_queue_full": FailureRule("no", "yes", False, "provider_queue_full"),
    "concurrency_timeout": FailureRule("no", "yes", False, "concurrency_timeout"),
    "fixture_missing": FailureRule("no", "no", False, "fixture_missing"),
    "client_disconnected": FailureRule("no", "no", False, "client_disconnected"),
    "cancelled": FailureRule("no", "no", False, "cancelled"),
    "run_deadline": FailureRule("no", "no", False, "run_deadline"),
}

_QUOTA_CODES = ("insufficient_quota", "quota_exceeded", "billing_hard_limit_reached", "billing_not_active")
_CONTEXT_CODES = ("context_length_exceeded", "context_window_exceeded")
_POLICY_CODES = ("content_filter", "content_policy_violation")
_FEATURE_CODES = ("unsupported_parameter", "unsupported_value")
_BY_STATUS: dict[int, str] = {
    401: "auth_invalid",
    402: "quota_exceeded",
    403: "permission_denied",
    404: "model_unavailable",
    408: "transient_upstream",
    409: "conflict",
    413: "context_window_exceeded",
    425: "transient_upstream",
    429: "rate_limited",
    529: "overloaded",
}


def classify(status: int, *, error_type: str, code: str, message: str, has_retry_after: bool) -> str:
    """Return the class of an error answer; `error_type`, `code` and `message` are the body's own words."""
    if error_type == "overloaded_error":
        return "overloaded"
    if status == 429 and (code in _QUOTA_CODES or error_type in _QUOTA_CODES):
        return "quota_exceeded"
    if code in _CONTEXT_CODES or (400 <= status < 500 and "prompt is too long" in message.lower()):
        return "context_window_exceeded"
    if code in _POLICY_CODES:
        return "content_policy_blocked"
    if code in _FEATURE_CODES:
        return "unsupported_feature"
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status == 503 and has_retry_after:
        return "overloaded"
    if 400 <= status < 500:
        return "invalid_request"
    if status >= 500 or error_type == "api_error":
        return "transient_upstream"
    if 300 <= status < 400:
        return "redirect_refused"
    return "malformed_response"


def rule_of(failure_class: str) -> FailureRule:
    """Return the row of a class; every class that a transport or a parser names has one."""
    return FAILURES[failure_class]
