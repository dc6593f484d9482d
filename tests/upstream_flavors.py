"""Servers of OpenAI's dialect, each with exactly the ways known of it: what it refuses, and how it answers.

A server here is stricter than most real ones: what a flavor does not know is a 400, so that a request which passes
was written for that flavor. Sources: the API references of OpenAI, Groq, Together, Ollama and LocalAI.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web
from upstream import Behaviour, Received, Upstream

from palyra.wire.multipart import boundary_of, read_form

#: Flavors that know the Responses API.
KNOW_RESPONSES = ("openai", "groq")
#: How each answers where nothing else is wanted.
DEFAULTS: Mapping[str, Behaviour] = {
    "openai": Behaviour(),
    "groq": Behaviour(usage="x_groq"),
    "together": Behaviour(usage="last_chunk"),
    "ollama": Behaviour(),
    "localai": Behaviour(usage="none", finish_reason=""),
    "generic": Behaviour(),
}
#: Flavors that obey `max_tokens` alone; they ignore the newer word.
OBEY_MAX_TOKENS = ("together", "ollama", "localai", "generic")
#: What Ollama keeps of a prompt; the rest it forgets and says nothing.
OLLAMA_KEEPS_TOKENS = 4_096


class FlavoredUpstream(Upstream):
    """A server of one flavor; use as `Upstream`."""

    def __init__(self, flavor: str, *, models: tuple[str, ...] = ("m-x",)) -> None:
        super().__init__(models=models)
        self.flavor = flavor
        self.default = DEFAULTS[flavor]
        #: What it has refused, as its messages said.
        self.refused: list[str] = []

    def _model_list(self) -> Behaviour:
        if self.flavor != "together":
            return super()._model_list()
        rows = [{"id": name, "type": "chat", "context_length": 32_768} for name in self.models]
        return Behaviour.raw(json.dumps(rows).encode())

    async def _answer(
        self, request: web.BaseRequest, received: Received, behaviour: Behaviour
    ) -> web.StreamResponse:
        refusal = "" if received.method == "GET" else self._refusal(received)
        if refusal:
            self.refused.append(refusal)
            status = 404 if refusal.startswith("no such route") else 400
            error = Behaviour.error(status, message=refusal, kind="invalid_request_error")
            return await super()._answer(request, received, error)
        if self.flavor in OBEY_MAX_TOKENS and received.path == "/v1/chat/completions":
            words = behaviour.text.split()[: received.json.get("max_tokens")]
            behaviour = dataclasses.replace(behaviour, text=" ".join(words))
        if self.flavor == "ollama" and received.path == "/v1/chat/completions":
            behaviour = _forgetful(behaviour, received)
        if self.flavor == "localai" and received.path == "/v1/embeddings":
            floats = {**received.json, "encoding_format": "float"}
            received = dataclasses.replace(received, body=json.dumps(floats).encode())
        return await super()._answer(request, received, behaviour)

    def _refusal(self, received: Received) -> str:
        """Return why this server does not take a request, "" where it does."""
        if received.path == "/v1/audio/transcriptions":
            form = read_form(received.body, boundary_of(received.headers["content-type"]))
            wanted = form.text("response_format") or "json"
            known = ("json", "text", "verbose_json") if self.flavor == "groq" else ("json", "verbose_json")
            is_odd = self.flavor in ("groq", "together") and wanted not in known
            return f"unknown response_format: {wanted}" if is_odd else ""
        if received.path == "/v1/responses" and self.flavor not in KNOW_RESPONSES:
            return "no such route: /v1/responses"
        if received.path == "/v1/embeddings":
            is_odd = self.flavor == "localai" and received.json.get("encoding_format", "float") != "float"
            return "unknown encoding_format" if is_odd else ""
        return next(self._faults(received.json), "") if received.path == "/v1/chat/completions" else ""

    def _faults(self, asked: Mapping[str, Any]) -> Iterator[str]:
        yield from (f"unsupported parameter: {name}" for name in _UNKNOWN[self.flavor] if name in asked)
        if self.flavor == "groq" and asked.get("n", 1) != 1:
            yield "unsupported parameter: n"
        for message in asked["messages"]:
            if message["role"] == "developer" and self.flavor != "openai":
                yield "unknown role: developer"
            if "name" in message and self.flavor == "groq":
                yield "unsupported parameter: messages[].name"
            parts = message["content"] if isinstance(message["content"], list) else []
            images = [part["image_url"]["url"] for part in parts if part.get("type") == "image_url"]
            if self.flavor == "ollama" and not all(url.startswith("data:") for url in images):
                yield "invalid image input"


#: Members of a chat request that each flavor does not know.
_UNKNOWN: Mapping[str, tuple[str, ...]] = {
    "openai": ("max_tokens",),  # of its newer models
    "groq": ("logprobs", "top_logprobs", "logit_bias"),
    "together": (),
    "ollama": (),
    "localai": (),
    "generic": ("stream_options",),
}


def _forgetful(behaviour: Behaviour, received: Received) -> Behaviour:
    """Answer as Ollama does: of a long prompt it reads the end, and a tool that must be called may not be."""
    tokens = min(len(received.body) // 4, OLLAMA_KEEPS_TOKENS)
    behaviour = dataclasses.replace(behaviour, prompt_tokens=tokens)
    if not behaviour.tool_calls or not received.json.get("stream"):
        return behaviour
    calls = [
        {"type": "function", "function": {"name": name, "arguments": arguments}}
        for _, name, arguments in behaviour.tool_calls
    ]
    common = {"object": "chat.completion.chunk", "created": 1, "model": received.json["model"]}
    deltas: list[dict[str, Any]] = [
        *({"index": 0, "delta": {"role": "assistant", "content": "", "tool_calls": [one]}} for one in calls),
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": "stop"},
    ]
    events = [{**common, "choices": [delta]} for delta in deltas]
    usage = {"prompt_tokens": tokens, "completion_tokens": behaviour.completion_tokens}
    events.append({**common, "choices": [], "usage": usage})
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return Behaviour.raw(body.encode(), "text/event-stream")
