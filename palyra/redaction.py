"""`Secret`, the only holder of secret text, and the redactor of everything that is shown, logged or stored.

The redactor knows shapes (keys of vendors, tokens, ``key=value`` with a telling name) and the secrets that are held
right now. It is pure and runs in linear time: every repeat in its patterns is bounded.
"""

from __future__ import annotations

import hmac
import itertools
import re
from typing import Any, NoReturn

REDACTED = "<redacted>"
_TEXT_MAX_CHARS = 65_536


class Secret:
    """A secret value. It shows `<redacted>`, cannot be pickled or encoded, and compares in constant time."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value; only the modules that put it on a wire or digest it may call this."""
        return self._value

    def matches(self, other: str) -> bool:
        return hmac.compare_digest(self._value.encode(), other.encode())

    def __repr__(self) -> str:
        return REDACTED

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return REDACTED

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.matches(other._value)


_SHAPES = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:  # a word that ends like a prefix (`desk-lamp`) is no key
    sk-[A-Za-z0-9_\-]{8,512}
    | (?:gsk_|xai-|pplx-|hf_|r8_|gh[pousr]_|github_pat_|xox[abprs]-)[A-Za-z0-9_\-]{16,512}
    | AIza[A-Za-z0-9_\-]{35}
    | A(?:KIA|SIA)[A-Z0-9]{16}
    | palyra_(?:client|admin)_[A-Za-z0-9_]{1,256}
    | eyJ[A-Za-z0-9_\-]{8,2048}\.[A-Za-z0-9_\-]{4,4096}\.[A-Za-z0-9_\-]{0,1024}
    | -----BEGIN[ A-Z]{0,40}PRIVATE[ ]KEY-----[^-]{0,16384}(?:-----END[ A-Z]{0,40}PRIVATE[ ]KEY-----)?
    )
    """,
    re.VERBOSE,
)
_SCHEME = re.compile(r"\b(Bearer|Basic)\s{1,8}[A-Za-z0-9._~+/=\-]{8,4096}", re.IGNORECASE)
_USERINFO = re.compile(r"(://)[^/\s:@]{1,256}:[^/\s@]{1,256}@")
_PAIR = re.compile(
    r"""(?ix)
    (["']?\b(?:[a-z0-9]{1,32}[_\-.]){0,4}
        (?:api[_\-]?key|access[_\-]?key|private[_\-]?key|vault[_\-]?ref|secret|password|passwd|passphrase|
           authorization|cookie|credentials?|jwt|token|otp|signature|code_verifier)["']?
     \s{0,4}[=:]\s{0,4})
    (?:"[^"]{1,4096}" | '[^']{1,4096}' | [^\s"'&,;<>{}\[\]]{1,4096})
    """
)


def redact_text(text: str, known: tuple[str, ...] = ()) -> str:
    """Return `text` without secrets: those of `known` first, then everything of a secret's shape."""
    if len(text) > _TEXT_MAX_CHARS:
        return f"<omitted {len(text)} chars>"
    if not known and _TRIGGER.search(text) is None:
        return text
    for value in known:
        if len(value) >= 8:
            text = text.replace(value, REDACTED)
    text = _USERINFO.sub(rf"\1{REDACTED}@", text)
    text = _SHAPES.sub(REDACTED, text)
    text = _SCHEME.sub(rf"\1 {REDACTED}", text)
    return _PAIR.sub(_hide_value, text)


def _hide_value(match: re.Match[str]) -> str:
    return match[1] + REDACTED


def has_secret_shape(text: str) -> bool:
    """Return whether `text` holds something of the shape of a vendor's key."""
    return _SHAPES.search(text) is not None


#: Every shape above holds one of these; a text without them is looked at once and not four times.
_TRIGGER = re.compile(r"[-_=:]|eyJ|AIza|A(?:KIA|SIA)|bearer|basic", re.IGNORECASE)

_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_SENSITIVE_WORDS = frozenset(
    "secret password passwd passphrase authorization cookie credential credentials bearer apikey jwt token otp"
    " pin".split()
)
_SENSITIVE_PAIRS = frozenset(
    [("api", "key"), ("private", "key"), ("access", "key"), ("vault", "ref"), ("code", "verifier")]
)
_ALLOWED_KEYS = frozenset(
    "token_type token_url token_endpoint credential_ref credential_revision credential_kind cookie_name".split()
)


def is_sensitive_key(key: str) -> bool:
    """Return whether a mapping's key names something secret, judged by whole words: `max_tokens` does not."""
    if key in _ALLOWED_KEYS or key.startswith(("token_estimate", "max_token")):
        return False
    words = [word.lower() for word in _WORD.findall(key)]
    if "tokens" in words:
        return False
    return any(word in _SENSITIVE_WORDS for word in words) or any(
        pair in _SENSITIVE_PAIRS for pair in itertools.pairwise(words)
    )


def redact(value: Any, known: tuple[str, ...] = ()) -> Any:
    """Return a copy of plain data (dict, list, str, numbers) without secrets; counters survive."""
    if isinstance(value, str):
        return redact_text(value, known)
    if isinstance(value, dict):
        return {key: _redact_under(str(key), item, known) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(item, known) for item in value]
    if isinstance(value, (bytes, Secret)):
        return REDACTED
    return value


def _redact_under(key: str, value: Any, known: tuple[str, ...]) -> Any:
    if is_sensitive_key(key) and value is not None and not isinstance(value, (bool, int)):
        return REDACTED
    return redact(value, known)


def clean_message(text: str, known: tuple[str, ...] = (), max_chars: int = 240) -> str:
    """Return somebody else's message fit to be stored or shown: one line, no secrets, cut."""
    flat = "".join(" " if char in "\r\n\t" else char for char in text if char >= " " or char in "\r\n\t")
    return redact_text(flat[:_TEXT_MAX_CHARS], known)[:max_chars]
