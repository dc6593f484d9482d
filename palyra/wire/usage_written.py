"""Usage in the words of each dialect, from the one normal form.

The details that every answer of the real thing has are always there, for clients that read them unasked.
"""

from __future__ import annotations

from typing import Any

from palyra.usage import TokenUsage


def chat_usage(usage: TokenUsage) -> dict[str, Any]:
    """Return usage in the words of chat completions."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0, **_input_details(usage)},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0, **_output_details(usage)},
    }


def responses_usage(usage: TokenUsage) -> dict[str, Any]:
    """Return usage in the words of the Responses API."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, **_input_details(usage)},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0, **_output_details(usage)},
        "total_tokens": usage.total_tokens,
    }


def messages_usage(usage: TokenUsage) -> dict[str, Any]:
    """Return usage in the words of the Messages API, whose input leaves out what a cache gave or took."""
    written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    thought = {"thinking_tokens": usage.reasoning_tokens} if usage.reasoning_tokens else {}
    return {
        "input_tokens": usage.input_tokens - usage.cached_input_tokens - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        },
        "output_tokens": usage.output_tokens,
        **({"output_tokens_details": thought} if thought else {}),
    }


def _input_details(usage: TokenUsage) -> dict[str, int]:
    found = {
        "cached_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
        "audio_tokens": usage.input_audio_tokens,
    }
    return {name: count for name, count in found.items() if count}


def _output_details(usage: TokenUsage) -> dict[str, int]:
    found = {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": usage.output_audio_tokens}
    return {name: count for name, count in found.items() if count}
