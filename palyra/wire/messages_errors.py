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


def messages_error_envelope(
    refusal: Refusal, *, run_id: str, failure_class: str = "", attempts: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Return an error answer as plain data; the code, which this dialect has no field for, begins the message."""
    plain = error_envelope(refusal, run_id=run_id, failure_class=failure_class, attempts=attempts)
    message = f"[{refusal.code}] {plain['error']['message']}"
    return {
        "type": "error",
        "error": {"type": messages_error_type(refusal.http_status), "message": message},
        "request_id": run_id,
        "palyra": plain["palyra"],
    }
