"""What every answer of the web server carries, and how a refusal is written. Knows no request and no journal."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from palyra.engine.client import refusal_headers
from palyra.errors import Refusal
from palyra.wire.messages_errors import messages_error_envelope
from palyra.wire.openai_errors import error_envelope

JSON = {"content-type": "application/json"}

#: On each answer: nothing is guessed, nothing leaks, and the version stays at home.
EVERY_ANSWER = {
    "Server": "palyra",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

#: Where TLS is ours and so is the name: a browser that came once comes back encrypted, for a year.
STRICT = {"Strict-Transport-Security": "max-age=31536000"}

#: On each answer of the console: it is kept nowhere, framed nowhere, and runs nothing but its own files.
CONSOLE_ANSWER = {
    "Cache-Control": "no-store",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
}

EVENT_STREAM = {
    **EVERY_ANSWER,
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


def refusal_answer(
    refusal: Refusal, run_id: str, *, is_anthropic: bool = False, allowed_methods: Collection[str] = ()
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of a refusal in Anthropic's envelope or in OpenAI's."""
    headers = {
        **JSON,
        **refusal_headers(refusal),
        "x-palyra-run-id": run_id,
        "request-id": run_id,
        "x-request-id": run_id,
    }
    if refusal.http_status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="palyra"'
    if refusal.http_status == 405:
        headers["Allow"] = ", ".join(allowed_methods)
    envelope = (messages_error_envelope if is_anthropic else error_envelope)(refusal, run_id=run_id)
    return refusal.http_status, headers, msgspec.json.encode(envelope)
