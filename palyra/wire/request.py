"""What the engine knows of a client's request: figures and needs, and the body as it came.

Only what the gateway acts on is checked; everything else passes to the provider untouched and is its to refuse. No
text of a prompt is kept beyond `SurfaceRequest.body`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from palyra.limits import EMBEDDING_INPUTS_MAX_COUNT, MESSAGES_MAX_COUNT, TOOLS_MAX_COUNT
from palyra.wire.chat_content import Message, Tally, last_text, tally_format, tally_message, tally_tools
from palyra.wire.decoding import ITEMS, NULL, check_count, check_positive, decode, model_asked, read_or_none
from palyra.wire.errors import WireError
from palyra.wire.jsonscan import Span, check_depth, scan_object
from palyra.wire.multipart import Form
from palyra.wire.neutral import NeutralRequest, Outline
from palyra.wire.tokens import estimate_token_count


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """What a transcription request brings: its form with one file, and what is known of that file."""

    form: Form
    #: As the client wants the transcript (`transcripts.TranscriptFormat`).
    response_format: str
    #: By its container's header, or guessed by its size.
    length_ms: int
    is_guessed: bool


class SurfaceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a client, in the terms in which it is admitted, routed and sent."""

    surface: Literal["chat", "embeddings", "messages", "responses", "audio_transcription"]
    #: As received; what goes upstream is spliced from it.
    body: bytes
    #: Of the body's top-level members.
    spans: Mapping[str, Span]
    #: The model asked for; "" when absent or blank.
    model: str
    stream: bool = False
    #: The client itself asked for the usage chunk of a stream.
    wants_usage: bool = False
    #: The client's own output maximum.
    output_max_tokens: int | None = None
    choices_count: int = 1
    #: Names of the capabilities a model must have, sorted.
    needs: tuple[str, ...] = ()
    #: `chars-v1` over the whole request.
    raw_tokens: int
    #: The client's hint for which requests belong together, "" when there is none.
    prompt_cache_key: str = ""
    #: Items of an embeddings request, else 0.
    inputs_count: int = 0
    #: Vector length asked for.
    dimensions: int | None = None
    #: How vectors are to be written: "float" or "base64".
    encoding_format: str = "float"
    #: The response that this one goes on from, which only its provider knows; "" for none.
    previous_response_id: str = ""
    #: What tells how demanding it is: tools, pictures, and the last thing that the user said.
    tools_count: int = 0
    images_count: int = 0
    last_text: str = ""
    #: The request in no dialect, where it was read into one; its outline, where that was done elsewhere.
    neutral: NeutralRequest | None = None
    outline: Outline | None = None
    #: Of a transcription.
    recording: Recording | None = None
    #: By dialect, or by `flavor:NAME`: what keeps the request from being sent there.
    losses: Mapping[str, tuple[str, ...]] = {}

    @property
    def service_tier(self) -> str:
        """The tier of service that the client asks for, "" where it names none."""
        span = self.spans.get("service_tier")
        return "" if span is None else read_or_none(TEXT, self.body[span.start : span.end]) or ""


#: A limit above this is no limit; the view stays a number that every store takes, the body keeps its own.
TOKENS_MAX = 1_000_000_000
_REQUEST_TOKENS = 3
CHOICES_MAX_COUNT = 128
CHAT_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


class _StreamOptions(msgspec.Struct):
    include_usage: Any = None


class ChatBody(msgspec.Struct):
    """A chat request, as far as it is checked."""

    messages: list[Message]
    model: str | None = None
    stream: bool | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: list[msgspec.Raw] | None = None
    functions: msgspec.Raw = NULL
    tool_choice: msgspec.Raw = NULL
    function_call: msgspec.Raw = NULL
    response_format: msgspec.Raw = NULL
    stream_options: msgspec.Raw = NULL
    logprobs: msgspec.Raw = NULL
    top_logprobs: msgspec.Raw = NULL
    prompt_cache_key: msgspec.Raw = NULL


_CHAT = msgspec.json.Decoder(ChatBody)
_STREAM_OPTIONS = msgspec.json.Decoder(_StreamOptions)
TEXT = msgspec.json.Decoder(str)

#: Choices that leave it to the model, so any model will do.
_FREE_CHOICES = (b"null", b'"auto"', b'"none"')
_FALSE_VALUES = (b"null", b"false", b"0")


def decode_chat(body: bytes) -> SurfaceRequest:
    """Read a chat completion request; raises `WireError` with the field at fault."""
    spans = scan_object(body)
    check_depth(body)
    chat = decode(_CHAT, body)
    _check_chat(chat)
    functions = read_or_none(ITEMS, chat.functions) or []
    tools = [*(chat.tools or ()), *functions]
    check_count("functions" if functions else "tools", len(tools), TOOLS_MAX_COUNT)
    tally = Tally(tokens=_REQUEST_TOKENS)
    for message in chat.messages:
        tally_message(tally, message)
    tally_tools(tally, tools)
    format_type = tally_format(tally, chat.response_format)
    stream = bool(chat.stream)
    choices_count = chat.n or 1
    needs = {
        "audio_input": tally.has_audio,
        "documents": tally.has_documents,
        "json_mode": format_type == "json_object",
        "json_schema": format_type == "json_schema",
        "logprobs": _is_set(chat.logprobs) or _is_set(chat.top_logprobs),
        "multi_choice": choices_count > 1,
        "tool_choice": any(bytes(choice) not in _FREE_CHOICES for choice in (chat.tool_choice, chat.function_call)),
        "tools": bool(tools),
        "vision": tally.images_count > 0,
    }
    return SurfaceRequest(
        surface="chat",
        body=body,
        spans=spans,
        model=model_asked(chat.model),
        stream=stream,
        wants_usage=stream and _asks_usage(chat.stream_options),
        output_max_tokens=_output_max_tokens(chat),
        choices_count=choices_count,
        needs=tuple(name for name, is_needed in needs.items() if is_needed),
        raw_tokens=tally.tokens,
        prompt_cache_key=read_or_none(TEXT, chat.prompt_cache_key) or "",
        tools_count=len(tools),
        images_count=tally.images_count,
        last_text=last_text(chat.messages),
    )


def _check_chat(chat: ChatBody) -> None:
    if not chat.messages:
        raise WireError("invalid_request", "messages must hold at least one message.", "messages")
    check_count("messages", len(chat.messages), MESSAGES_MAX_COUNT)
    for index, message in enumerate(chat.messages):
        if message.role not in CHAT_ROLES:
            place = f"messages[{index}].role"
            raise WireError("invalid_request", f"{place} must be one of {', '.join(CHAT_ROLES)}.", place)
    if chat.n is not None and not 1 <= chat.n <= CHOICES_MAX_COUNT:
        raise WireError("invalid_request", f"n must be from 1 to {CHOICES_MAX_COUNT}.", "n")
    check_positive("max_tokens", chat.max_tokens)
    check_positive("max_completion_tokens", chat.max_completion_tokens)


def _output_max_tokens(chat: ChatBody) -> int | None:
    old, new = chat.max_tokens, chat.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise WireError(
            "invalid_request",
            "max_tokens and max_completion_tokens differ; send only max_completion_tokens.",
            "max_tokens",
        )
    limit = old if new is None else new
    return None if limit is None else min(limit, TOKENS_MAX)


def _is_set(value: msgspec.Raw) -> bool:
    return bytes(value) not in _FALSE_VALUES


def _asks_usage(stream_options: msgspec.Raw) -> bool:
    options = read_or_none(_STREAM_OPTIONS, stream_options)
    return options is not None and options.include_usage is True


class EmbeddingsBody(msgspec.Struct):
    """An embeddings request, as far as it is checked."""

    input: msgspec.Raw
    model: str | None = None
    dimensions: int | None = None
    encoding_format: str | None = None


_EMBEDDINGS = msgspec.json.Decoder(EmbeddingsBody)
_TEXTS = msgspec.json.Decoder(list[str])
_TOKENS = msgspec.json.Decoder(list[int])
_TOKEN_LISTS = msgspec.json.Decoder(list[list[int]])


def decode_embeddings(body: bytes) -> SurfaceRequest:
    """Read an embeddings request; raises `WireError` with the field at fault."""
    spans = scan_object(body)
    check_depth(body)
    wanted = decode(_EMBEDDINGS, body)
    check_positive("dimensions", wanted.dimensions)
    encoding_format = wanted.encoding_format or "float"
    if encoding_format not in ("float", "base64"):
        raise WireError("invalid_request", "encoding_format must be float or base64.", "encoding_format")
    sizes = _input_tokens(bytes(wanted.input))
    return SurfaceRequest(
        surface="embeddings",
        body=body,
        spans=spans,
        model=model_asked(wanted.model),
        raw_tokens=sum(sizes),
        inputs_count=len(sizes),
        dimensions=wanted.dimensions,
        encoding_format=encoding_format,
    )


def _input_tokens(raw: bytes) -> list[int]:
    """Return the tokens of each item: texts are estimated, token lists are exact. No item is empty."""
    if raw.startswith(b'"'):
        text = TEXT.decode(raw)
        if not text:
            raise WireError("invalid_request", "input is empty.", "input")
        return [estimate_token_count(text)]
    if not raw.startswith(b"["):
        raise WireError(
            "invalid_request",
            "input must be a string, a list of strings, a list of tokens or a list of token lists.",
            "input",
        )
    first = raw[1:].lstrip(b" \t\n\r")[:1]
    if first == b"]":
        raise WireError("invalid_request", "input must hold at least one item.", "input")
    if first not in (b'"', b"["):
        return [len(decode(_TOKENS, raw, "input"))]
    items: list[str] | list[list[int]]
    items = decode(_TEXTS, raw, "input") if first == b'"' else decode(_TOKEN_LISTS, raw, "input")
    check_count("input", len(items), EMBEDDING_INPUTS_MAX_COUNT)
    for index, item in enumerate(items):
        if not item:
            raise WireError("invalid_request", f"input[{index}] is empty.", f"input[{index}]")
    return [estimate_token_count(item) if isinstance(item, str) else len(item) for item in items]
