"""Errors as OpenAI's clients expect them, with what Palyra knows beside them (gateway specification 11.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from palyra.errors import Refusal

_TYPE_OF_STATUS = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}


def openai_error_type(code: str, status: int) -> str:
    """Return the `type` of an error: by its HTTP status, but a spent budget is a quota whenever it heals."""
    if code.startswith("budget_"):
        return "insufficient_quota"
    return _TYPE_OF_STATUS.get(status, "invalid_request_error" if status < 500 else "server_error")


def error_envelope(
    refusal: Refusal, *, run_id: str, failure_class: str = "", attempts: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Return an error answer as plain data; what went wrong inside Palyra is told by the run id alone."""
    is_internal = refusal.code == "internal"
    palyra: dict[str, Any] = {} if is_internal else dict(refusal.details)
    palyra["run_id"] = run_id
    if failure_class:
        palyra["class"] = failure_class
    palyra["attempts"] = list(attempts)
    palyra["retry_after_ms"] = refusal.retry_after_ms
    return {
        "error": {
            "message": f"Internal error in {run_id}." if is_internal else refusal.message,
            "type": openai_error_type(refusal.code, refusal.http_status),
            "param": refusal.param,
            "code": refusal.code,
        },
        "palyra": palyra,
    }


def error_body(
    refusal: Refusal, *, run_id: str, failure_class: str = "", attempts: Sequence[dict[str, Any]] = ()
) -> bytes:
    """Return the body of an error answer."""
    return msgspec.json.encode(
        error_envelope(refusal, run_id=run_id, failure_class=failure_class, attempts=attempts)
    )
