"""A provider's list of models, read tolerantly: an object with `data`, a bare array, or an object with `models`.

Source: the API references of OpenAI, Anthropic, Together, Groq and Ollama, and vLLM's server.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from palyra.wire.decoding import read_or_none
from palyra.wire.errors import Malformed

#: What may be a model's name here.
_NAME = re.compile(r"[!-)+-~]{1,256}")
_NAMES = ("id", "name", "model")
_WINDOWS = (
    "context_length", "context_window", "max_context_length", "max_model_len", "max_input_tokens", "context_size",
)  # fmt: skip
_OUTPUTS = ("max_output_tokens", "max_completion_tokens", "max_tokens")
_TOKENS_MAX = 100_000_000
#: Kinds of models that answer none of our surfaces.
_OTHER_TYPES = ("image", "video", "moderation", "rerank", "tts", "speech", "classifier")
_LIST = msgspec.json.Decoder(Any)


class ListedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a list."""

    upstream_model: str
    role: str
    max_context_tokens: int | None = None
    max_output_tokens: int | None = None


class ModelPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list."""

    entries: list[ListedEntry]
    #: Listed, and left out: no usable name, or a kind that answers none of our surfaces.
    dropped_count: int = 0
    #: What the next page comes after, "" on the last one.
    next_after: str = ""


def read_model_page(body: bytes) -> ModelPage:
    """Return what a page lists; raises `Malformed` for what is no list."""
    value = read_or_none(_LIST, body)
    rows = value
    if isinstance(value, dict):
        rows = value.get("data") if isinstance(value.get("data"), list) else value.get("models")
    if not isinstance(rows, list):
        raise Malformed("the answer is no list of models")
    entries = [entry for row in rows if (entry := _entry(row)) is not None]
    after = value.get("last_id") if isinstance(value, dict) and value.get("has_more") is True else ""
    return ModelPage(
        entries=entries,
        dropped_count=len(rows) - len(entries),
        next_after=after if isinstance(after, str) and _NAME.fullmatch(after) else "",
    )


def _entry(row: Any) -> ListedEntry | None:
    row = {"id": row} if isinstance(row, str) else row
    if not isinstance(row, dict):
        return None
    name = next((row[key] for key in _NAMES if isinstance(row.get(key), str)), "")
    kind = str(row.get("type") or "")
    if not _NAME.fullmatch(name) or kind in _OTHER_TYPES:
        return None
    return ListedEntry(
        upstream_model=name,
        role=_role(kind, name.lower()),
        max_context_tokens=_count(row, _WINDOWS),
        max_output_tokens=_count(row, _OUTPUTS),
    )


def _role(kind: str, name: str) -> str:
    if kind.startswith("embedding") or "embed" in name:
        return "embeddings"
    if kind in ("audio", "transcribe", "transcription") or "whisper" in name or "transcribe" in name:
        return "audio_transcription"
    return "chat"


def _count(row: dict[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = row.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _TOKENS_MAX:
            return value
    return None
