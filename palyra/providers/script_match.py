"""Which rule of a script answers a request: what is seen of the request, and the count of what has been used."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import msgspec

from palyra.providers.port import Call
from palyra.wire.errors import WireError
from palyra.wire.request import SurfaceRequest, decode_chat, decode_embeddings
from palyra.wire.script import Match, Rule
from palyra.wire.transcription import decode_transcription

_REGEX_SEEN_CHARS = 65_536
_DIMENSIONS_MAX = 16_384
_RESULT_ROLES = ("tool", "function")
_SESSION_HEADER = "x-palyra-session"
#: The call itself comes in one dialect, whichever its client speaks.
_SURFACE_HEADER = "x-palyra-surface"


class Asked:
    """One request as a script sees it."""

    def __init__(self, call: Call) -> None:
        """Read a call; raises `WireError` for one that no provider would take."""
        headers = {name.lower(): value for name, value in call.headers.items()}
        readers: dict[str, Callable[[bytes], SurfaceRequest]] = {
            "/chat/completions": decode_chat,
            "/embeddings": decode_embeddings,
            "/audio/transcriptions": partial(decode_transcription, headers.get("content-type", "")),
        }
        reader = readers.get(call.path)
        if reader is None:
            raise WireError("route_not_found", f"There is no {call.path} here.")
        self.view: SurfaceRequest = reader(call.body)
        if (self.view.dimensions or 0) > _DIMENSIONS_MAX:
            raise WireError("invalid_request", f"dimensions must be at most {_DIMENSIONS_MAX}.", "dimensions")
        self.plain: dict[str, Any] = _decode(call.body) if self.view.recording is None else {}
        #: Of the body: what ids are made of.
        self.digest = hashlib.sha256(call.body).hexdigest()
        self.session = headers.get(_SESSION_HEADER, "")
        self.surface: str = headers.get(_SURFACE_HEADER, self.view.surface)

    @property
    def _messages(self) -> list[dict[str, Any]]:
        return self.plain.get("messages", [])  # type: ignore[no-any-return]

    @cached_property
    def user_text(self) -> str:
        """The text of the last user message, what is to be embedded, or the hint that goes with a recording."""
        if self.view.recording is not None:
            return self.view.recording.form.text("prompt") or ""
        if self.view.surface == "embeddings":
            return "\n".join(self.inputs)
        for message in reversed(self._messages):
            if message["role"] == "user":
                return _text_of(message.get("content"))
        return ""

    @cached_property
    def inputs(self) -> list[str]:
        """The texts to embed; a list of tokens is the text of their numbers."""
        given = self.plain["input"]
        if isinstance(given, str) or isinstance(given[0], int):
            given = [given]
        return [item if isinstance(item, str) else " ".join(map(str, item)) for item in given]

    @property
    def has_tool_result(self) -> bool:
        return any(message["role"] in _RESULT_ROLES for message in self._messages)


def _decode(body: bytes) -> dict[str, Any]:
    """Decode a body that has been read already; only a number too large for a float can still be wrong."""
    try:
        return msgspec.json.decode(body)  # type: ignore[no-any-return]
    except msgspec.DecodeError as exc:
        raise WireError("invalid_json", f"The body cannot be read: {exc}.") from exc


def _text_of(content: Any) -> str:
    """Return the text of a message's content, whose parts are joined by line ends."""
    if isinstance(content, str):
        return content
    texts = [part.get("text") for part in content or () if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _matches(match: Match, asked: Asked) -> bool:
    """Return whether everything holds that a rule says of a request, but for its count."""
    view = asked.view
    return (
        match.surface in (None, asked.surface)
        and match.model in (None, view.model)
        and match.session in (None, asked.session)
        and match.has_tools in (None, "tools" in view.needs)
        and match.has_image in (None, "vision" in view.needs)
        and match.has_tool_result in (None, asked.has_tool_result)
        and (match.contains is None or match.contains in asked.user_text)
        and (match.regex is None or re.search(match.regex, asked.user_text[:_REGEX_SEEN_CHARS]) is not None)
    )


class RuleBook:
    """The rules of a script in order, and how often each has matched and been used since the start."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._matched = [0] * len(rules)
        self._used = [0] * len(rules)

    def take(self, asked: Asked) -> Rule | None:
        """Return the first rule that matches and has uses left, and count it as used."""
        for place, rule in enumerate(self._rules):
            if not _matches(rule.match, asked):
                continue
            self._matched[place] += 1
            is_due = rule.match.nth in (None, self._matched[place])
            if is_due and (rule.times is None or self._used[place] < rule.times):
                self._used[place] += 1
                return rule
        return None
