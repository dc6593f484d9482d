"""Lists of models as providers write them."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palyra.wire.errors import Malformed
from palyra.wire.model_lists import ListedEntry, ModelPage, read_model_page


def read(value: Any) -> ModelPage:
    return read_model_page(json.dumps(value).encode())


@pytest.mark.parametrize(
    "value",
    [
        {"object": "list", "data": [{"id": "m", "object": "model"}]},
        [{"id": "m", "type": "chat"}],
        {"models": [{"name": "m", "model": "m"}]},
        {"data": None, "models": ["m"]},
    ],
    ids=["openai", "a bare array", "ollama's own", "names alone"],
)
def test_every_form_is_read(value: Any) -> None:
    """One model each."""
    assert read(value) == ModelPage(entries=[ListedEntry(upstream_model="m", role="chat")])


@pytest.mark.parametrize(
    ("row", "role"),
    [
        ({"id": "gpt"}, "chat"),
        ({"id": "x", "type": "embedding"}, "embeddings"),
        ({"id": "text-Embedding-3"}, "embeddings"),
        ({"id": "nomic-embed-text:latest"}, "embeddings"),
        ({"id": "whisper-1"}, "audio_transcription"),
        ({"id": "gpt-4o-transcribe"}, "audio_transcription"),
        ({"id": "x", "type": "audio"}, "audio_transcription"),
        ({"id": "x", "type": 7}, "chat"),
    ],
)
def test_the_role_is_told_by_type_or_name(row: dict[str, Any], role: str) -> None:
    """Whatever else it is, it chats."""
    (entry,) = read([row]).entries
    assert entry.role == role


@pytest.mark.parametrize(
    ("row", "window", "output"),
    [
        ({"context_length": 8_192}, 8_192, None),
        ({"context_window": 131_072, "max_completion_tokens": 4_096}, 131_072, 4_096),
        ({"max_input_tokens": 200_000, "max_tokens": 64_000}, 200_000, 64_000),
        ({"max_model_len": 0, "context_length": 5}, 5, None),
        ({"context_length": "8k", "max_tokens": True}, None, None),
        ({"context_length": 10**12}, None, None),
    ],
)
def test_figures_are_taken_where_they_are_some(row: dict[str, Any], window: int | None, output: int | None) -> None:
    """Under the names that providers give them."""
    (entry,) = read([{"id": "m", **row}]).entries
    assert (entry.max_context_tokens, entry.max_output_tokens) == (window, output)


def test_what_cannot_be_used_is_counted() -> None:
    """Names that are none, and models that answer none of our surfaces."""
    rows = [{"id": "m"}, {"id": "a b"}, {"id": "x" * 257}, {"id": "tab\t"}, {}, 7, {"id": "dall", "type": "image"}]
    page = read({"data": rows})
    assert (len(page.entries), page.dropped_count) == (1, 6)


@pytest.mark.parametrize(
    ("more", "after"),
    [
        ({"has_more": True, "last_id": "m"}, "m"),
        ({"has_more": False, "last_id": "m"}, ""),
        ({"has_more": True}, ""),
        ({"has_more": True, "last_id": "a b"}, ""),
    ],
)
def test_a_page_names_the_next(more: dict[str, Any], after: str) -> None:
    """Only where there is one."""
    assert read({"data": [], **more}).next_after == after


@given(st.binary())
def test_what_is_no_list_is_malformed(body: bytes) -> None:
    """Nothing else is raised, whatever comes."""
    with contextlib.suppress(Malformed):
        read_model_page(body)


@pytest.mark.parametrize("body", [b"", b"{}", b'"x"', b"null", b"7", b'{"data":{}}', b"<html>"])
def test_these_are_none(body: bytes) -> None:
    """An object without a list, a scalar, a page for people."""
    with pytest.raises(Malformed):
        read_model_page(body)
