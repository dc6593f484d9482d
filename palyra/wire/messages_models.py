"""The model list as Anthropic's clients read it, page by page (gateway specification 11.8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from palyra.wire.errors import WireError

_USUAL_COUNT, _MAX_COUNT = 20, 1_000


def messages_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return one model, from what OpenAI's clients get of it."""
    created = datetime.fromtimestamp(model["created"], UTC)
    return {
        "type": "model",
        "id": model["id"],
        "display_name": model["id"],
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "palyra": model["palyra"],
    }


def messages_models_page(models: Iterable[Mapping[str, Any]], query: Mapping[str, str]) -> bytes:
    """Return the page that a query asks for: `limit`, `after_id`, `before_id`; raises `WireError` for a bad one."""
    found = [messages_model(model) for model in models]
    ids = [model["id"] for model in found]
    limit = _limit(query.get("limit", ""))
    after, before = query.get("after_id", ""), query.get("before_id", "")
    start = ids.index(after) + 1 if after in ids else 0
    end = ids.index(before) if before in ids else len(ids)
    if before and not after:
        start = max(start, end - limit)
    page = found[start:end][:limit]
    has_more = start > 0 if before and not after else start + len(page) < end
    body = {
        "data": page,
        "has_more": has_more,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }
    return msgspec.json.encode(body)


def _limit(text: str) -> int:
    if not text:
        return _USUAL_COUNT
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= _MAX_COUNT:
        raise WireError("invalid_request", f"limit must be a whole number from 1 to {_MAX_COUNT}.", "limit")
    return int(text)
