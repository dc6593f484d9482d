"""What a provider says when it fails, whatever the shape: an OpenAI envelope, a bare text, HTML, or nothing.

The words of others are cleaned and cut before anybody sees them; raw bodies are never kept.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from palyra.limits import ERROR_TEXT_MAX_BYTES, UPSTREAM_ERROR_MAX_BYTES
from palyra.redaction import clean_message
from palyra.wire.decoding import NULL, read_or_none
from palyra.wire.errors import WireError


class UpstreamError(msgspec.Struct, frozen=True, kw_only=True):
    """An error of a provider. All texts are foreign, cleaned and cut; "" means not said."""

    #: The HTTP status; of an error inside a 200 the status it stands for, or 502.
    status: int
    type: str = ""
    code: str = ""
    param: str = ""
    message: str


class UpstreamErrorInBody(WireError):
    """The provider answered 200 and put an error into the body."""

    def __init__(self, error: UpstreamError) -> None:
        super().__init__("upstream_failed", error.message)
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return UpstreamErrorInBody, (self.error,)


#: Values of the member `error` of an answer that is none.
_NO_ERROR = (b"null", b"false", b'""', b"{}")


def holds_error(error: msgspec.Raw) -> bool:
    """Return whether the member `error` of an answer, which may be absent, says that it is one."""
    return error is not NULL and bytes(error) not in _NO_ERROR


_ANY = msgspec.json.Decoder(Any, float_hook=str)
_WORD_MAX_CHARS = 64
_NESTING_MAX = 4
_TAG = re.compile(r"<[^<>]*>")
_SPACES = re.compile(r"\s+")
_MESSAGE_KEYS = ("error_description", "message", "msg", "detail", "title")

#: The status behind an error inside a 200, by the words that type and code use.
_STATUS_OF_WORD = {
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "billing_error": 402,
    "request_too_large": 413,
    "timeout_error": 504,
    "overloaded_error": 529,
    "server_error": 500,
    "api_error": 500,
}
_STATUS_UNKNOWN = 502


def read_upstream_error(status: int, body: bytes, content_type: str = "") -> UpstreamError:
    """Read a provider's error; never raises. Its message is cut again by whoever stores or shows it."""
    body = body[:UPSTREAM_ERROR_MAX_BYTES]
    value = None if "html" in content_type else read_or_none(_ANY, body)
    fields = _error_fields(_plain(body.decode("utf-8", "replace")) if value is None else value)
    kind = _word(fields.get("type")) or _word(_only_text(fields.get("status")))
    code = _word(fields.get("code")) or _word(_detail_code(fields.get("details")))
    if status == 200:
        status = _status_inside(fields, kind, code)
    elif isinstance(value, dict) and value.get("type") == "error" and kind != "invalid_request_error":
        # Anthropic's envelope, whose word is more exact than the status that a proxy in between may have set.
        status = _STATUS_OF_WORD.get(kind, status)
    message = clean_message(_message(fields), max_chars=ERROR_TEXT_MAX_BYTES)
    return UpstreamError(
        status=status,
        type=kind,
        code=code,
        param=_word(fields.get("param")),
        message=message or f"The provider answered HTTP {status} without a message.",
    )


def _detail_code(details: Any) -> Any:
    """Return Anthropic's code, which stands one level down."""
    return details.get("error_code") if isinstance(details, dict) else None


def _plain(text: str) -> str:
    if text.lstrip().startswith("<"):
        text = _TAG.sub(" ", text)
    return _SPACES.sub(" ", text).strip()


def _error_fields(value: Any, depth: int = 0) -> dict[str, Any]:
    """Return the innermost object that describes the error."""
    if isinstance(value, list):
        value = value[0] if value else {}
    if isinstance(value, str):
        return {"message": value}
    if not isinstance(value, dict):
        return {}
    inner = value.get("error") or value.get("errors")
    if isinstance(inner, (dict, list)) and depth < _NESTING_MAX:
        return _error_fields(inner, depth + 1)
    if isinstance(inner, str):  # OAuth's form has the code there, Ollama's the sentence
        return {"message": inner, "code": inner if "error_description" in value else None, **value}
    return value


def _message(fields: dict[str, Any]) -> str:
    for key in _MESSAGE_KEYS:
        value = fields.get(key)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, dict):
            value = value.get("msg") or value.get("message")
        if isinstance(value, str) and value.strip():
            return value
    return ""


def _word(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 1_000_000 else ""
    return clean_message(value, max_chars=_WORD_MAX_CHARS) if isinstance(value, str) else ""


def _only_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _status_inside(fields: dict[str, Any], kind: str, code: str) -> int:
    for value in (fields.get("status"), fields.get("status_code"), fields.get("code")):
        if isinstance(value, int) and 400 <= value <= 599:
            return value
    if code.isascii() and code.isdigit() and 400 <= int(code) <= 599:
        return int(code)
    return _STATUS_OF_WORD.get(code) or _STATUS_OF_WORD.get(kind) or _STATUS_UNKNOWN
