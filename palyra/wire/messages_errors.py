"""Errors as Anthropic's clients expect them, with what Palyra knows beside them (gateway specification 11.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palyra.errors import Refusal
from palyra.wire.openai_errors import error_envelope

_TYPE_OF_STATUS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def messages_error_type(status: int) -> str:
    """Return the `type` of an error by its HTTP status."""
    return _TYPE_OF_STATUS.get(status, "invalid_request_error" if status < 500 else "api_error")


def _details(refusal: Refusal) -> dict[str, Any]:
    """Return by what a client goes on: the provider's own code, or ours for a history that is kept nowhere."""
    if refusal.code == "unsupported_parameter" and refusal.param == "thread":
        return {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    upstream_code = refusal.details.get("upstream_code")
    return {"error_code": upstream_code} if upstream_code else {}


def messages_error_envelope(
    refusal: Refusal, *, run_id: str, failure_class: str = "", attempts: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Return an error answer as plain data; the code, which this dialect has no field for, begins the message."""
    plain = error_envelope(refusal, run_id=run_id, failure_class=failure_class, attempts=attempts)
    error: dict[str, Any] = {
        "type": messages_error_type(refusal.http_status),
        "message": f"[{refusal.code}] {plain['error']['message']}",
    }
    details = _details(refusal)
    if details:
        error["details"] = details
    return {
        "type": "error",
        "error": error,
        "request_id": run_id,
        "palyra": plain["palyra"],
    }
