"""What a script's reply says to a request, and what is said where the script says nothing."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from typing import Any

import msgspec
from msgspec import UNSET

from palyra.providers.hash_embedding import DEFAULT_DIMENSIONS, hash_embedding
from palyra.providers.schema_instance import smallest_instance
from palyra.providers.script_match import Asked
from palyra.usage import TokenUsage
from palyra.wire.openai_reply import ChatAnswer, ToolCallReply, embeddings_reply
from palyra.wire.script import Chunk, Reply, ToolCall, TranscriptReply
from palyra.wire.tokens import estimate_token_count
from palyra.wire.transcription import recording_of
from palyra.wire.transcripts import Segment, Transcript, transcript_delta, transcript_done, transcript_segment

#: Answers name a time, but none may be read: 2026-01-01.
_CREATED_S = 1_767_225_600
_ID_CHARS = 24
_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}


def compose_chat(asked: Asked, reply: Reply) -> ChatAnswer:
    """Return the answer to a chat request; what the reply leaves open comes from the request."""
    said = _said(asked, reply)
    calls = tuple(
        ToolCallReply(
            call_id=call.id or _call_id(asked, index), name=call.name, arguments=_json_text(call.arguments)
        )
        for index, call in enumerate(said.tool_calls)
    )
    natural = "tool_calls" if calls else "end_turn"
    texts = [said.text or "", said.refusal, *(text for call in calls for text in (call.name, call.arguments))]
    reasoning_tokens = estimate_token_count(said.reasoning)
    estimated = TokenUsage(
        input_tokens=asked.view.raw_tokens,
        output_tokens=(sum(map(estimate_token_count, texts)) + reasoning_tokens) * asked.view.choices_count,
        reasoning_tokens=reasoning_tokens * asked.view.choices_count,
    )
    return ChatAnswer(
        response_id=f"chatcmpl-{asked.digest[:_ID_CHARS]}",
        created_s=_CREATED_S,
        model=asked.view.model,
        text=said.text or "",
        reasoning=said.reasoning,
        refusal=said.refusal,
        tool_calls=calls,
        finish_reason=_FINISH_REASONS[said.stop_reason or natural],
        usage=msgspec.structs.replace(estimated, **(said.usage or {})),
        choices_count=asked.view.choices_count,
    )


def _said(asked: Asked, reply: Reply) -> Reply:
    """Return the reply with its text, or its calls, filled in."""
    if reply.json is not UNSET:
        return msgspec.structs.replace(reply, text=_json_text(reply.json, quote=True))
    if reply.echo:
        return msgspec.structs.replace(reply, text=asked.user_text)
    if reply.text is not None or reply.tool_calls or reply.refusal:
        return reply
    if (name := _demanded_tool(asked)) is not None:
        schema = _schemas_of_tools(asked)[name]
        return msgspec.structs.replace(reply, tool_calls=[ToolCall(name=name, arguments=_arguments(schema))])
    text = _demanded_json(asked)
    if text is not None:
        return msgspec.structs.replace(reply, text=text)
    text = asked.user_text if asked.user_text.strip() else "ok"
    fitting = _fitting(text, asked.view.output_max_tokens)
    stop_reason = reply.stop_reason or ("end_turn" if fitting == text else "max_tokens")
    return msgspec.structs.replace(reply, text=fitting, stop_reason=stop_reason)


def _json_text(value: Any, *, quote: bool = False) -> str:
    """Return compact JSON; a text stands as it is unless it is to be quoted."""
    if isinstance(value, str) and not quote:
        return value
    return msgspec.json.encode(value).decode()


def _call_id(asked: Asked, index: int) -> str:
    return "call_" + hashlib.sha256(f"{asked.digest}:{index}".encode()).hexdigest()[:_ID_CHARS]


def _fitting(text: str, max_tokens: int | None) -> str:
    """Return the longest beginning of a text that keeps to the client's maximum; estimates only grow with it."""
    if max_tokens is None or estimate_token_count(text) <= max_tokens:
        return text
    lengths = range(len(text) + 1)
    return text[: bisect_right(lengths, max_tokens, key=lambda n: estimate_token_count(text[:n])) - 1]


def _schemas_of_tools(asked: Asked) -> dict[str, Any]:
    """Return the function tools of a request by name, in their order."""
    functions = [tool.get("function") for tool in asked.plain.get("tools") or () if isinstance(tool, dict)]
    named = [function for function in functions if isinstance(function, dict)]
    return {str(function.get("name")): function.get("parameters") for function in named}


def _demanded_tool(asked: Asked) -> str | None:
    """Return the tool that the request wants called: one it names, else its first one."""
    choice = asked.plain.get("tool_choice")
    names = list(_schemas_of_tools(asked))
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        wanted = choice["function"].get("name")
        return wanted if wanted in names else None
    return names[0] if choice == "required" and names else None


def _arguments(schema: Any) -> dict[str, Any]:
    instance = smallest_instance(schema)
    return instance if isinstance(instance, dict) else {}


def _demanded_json(asked: Asked) -> str | None:
    """Return the JSON text that the request's format wants, if it wants one."""
    wanted = asked.plain.get("response_format")
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_object":
        return '{"ok":true}'
    described = wanted.get("json_schema")
    if wanted.get("type") == "json_schema" and isinstance(described, dict):
        return _json_text(smallest_instance(described.get("schema")), quote=True)
    return None


def compose_embeddings(asked: Asked, reply: Reply) -> bytes:
    """Return the answer to an embeddings request: the reply's vector, or one hashed from each text."""
    dimensions = asked.view.dimensions or DEFAULT_DIMENSIONS
    vectors = [reply.embedding or hash_embedding(text, dimensions) for text in asked.inputs]
    return embeddings_reply(
        vectors,
        model=asked.view.model,
        input_tokens=(reply.usage or {}).get("input_tokens", asked.view.raw_tokens),
        encoding_format=asked.view.encoding_format,
    )


def compose_transcript(asked: Asked, reply: Reply) -> tuple[Transcript, dict[str, Any]]:
    """Return the transcript that answers a recording, and its usage: the reply's tokens, or the length."""
    recording = recording_of(asked.view)
    said = reply.transcript or TranscriptReply(text=reply.text or asked.user_text.strip() or "ok")
    length_ms = recording.length_ms if said.duration_ms is None else said.duration_ms
    segments = tuple(
        Segment(start_ms=one.start_ms, end_ms=one.end_ms, text=one.text, speaker=one.speaker)
        for one in said.segments
    )
    transcript = Transcript(text=said.text, language=said.language, duration_ms=length_ms, segments=segments)
    if reply.usage is None:
        return transcript, {"type": "duration", "seconds": length_ms / 1_000}
    tokens = TokenUsage(**reply.usage)
    return transcript, {
        "type": "tokens",
        "input_tokens": tokens.input_tokens,
        "input_token_details": {"audio_tokens": tokens.input_audio_tokens},
        "output_tokens": tokens.output_tokens,
        "total_tokens": tokens.total_tokens,
    }


def transcript_events(asked: Asked, reply: Reply, chunk: Chunk | None) -> list[bytes]:
    """Return the events of a streamed transcript: its text in pieces, what each speaker says, and the end."""
    transcript, usage = compose_transcript(asked, reply)
    events = [transcript_delta(piece) for piece in cut_text(transcript.text, chunk)]
    if recording_of(asked.view).response_format == "diarized_json":
        events += [transcript_segment(index, one) for index, one in enumerate(transcript.segments)]
    return [*events, transcript_done(transcript.text, usage)]


_WORDS = re.compile(r"\s*\S+\s*|\s+")


def cut_text(text: str, chunk: Chunk | None) -> list[str]:
    """Return the pieces of a streamed text, which make it up exactly: words, unless the pace says characters."""
    size = chunk.size if chunk is not None else 1
    if chunk is not None and chunk.by == "char":
        return [text[start : start + size] for start in range(0, len(text), size)]
    words = _WORDS.findall(text)
    if chunk is not None and chunk.by != "word":
        return words
    return ["".join(words[start : start + size]) for start in range(0, len(words), size)]
