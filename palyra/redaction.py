"""`Secret`, the only holder of secret text, and the redactor of everything that is shown, logged or stored.

The redactor knows shapes (keys of vendors, tokens, ``key=value`` with a telling name) and the secrets that are held
right now. It is pure and runs in linear time: every repeat in its patterns is bounded.
"""

from __future__ import annotations

import base64
import functools
import hmac
import itertools
import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn
from urllib.parse import quote

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
_USERINFO = re.compile(r"(://)[^/?#\s@\"'<>]{1,512}@")
#: A header whose whole line is secret; inside a quoted text it ends with that.
_COOKIE = re.compile(r"(?i)\b((?:set-)?cookie\s{0,4}:)(?!\s{0,4}<redacted>)(\s{0,4})[^\r\n\"\\]{1,8192}")
_QUERY = re.compile(
    r"(?i)([?&#;](?:code|state|key|sig|signature|token|x-(?:amz|goog)-[a-z0-9\-]{1,64})=)[^&#\s\"'<>\\]{1,4096}"
)
#: `key =`, `"key":`, also inside a JSON text inside a JSON text. Whether the key is telling is judged by its words,
#: so that `max_tokens=5` stays.
_KEY = re.compile(
    r"""(?<![A-Za-z0-9_.\-])([A-Za-z][A-Za-z0-9_.\-]{0,63})(?:\\{0,3}["'])?\s{0,4}[=:]\s{0,4}(?!<redacted>)"""
)
#: What stands behind it: between escaped quotes, in quotes, or bare.
_VALUE = re.compile(
    r"""(?x)
    (?P<open>\\{1,3}["'])(?P<escaped>[^"'\\]{1,4096})
    | "(?P<double>(?:[^"\\]|\\.){1,4096})
    | '(?P<single>(?:[^'\\]|\\.){1,4096})
    | (?P<bare>[^\s"'&,;<>{}\[\]\\]{1,4096})
    """,
    re.DOTALL,
)
_PLAIN = re.compile(r"(?i)-?\d{1,32}(?:\.\d{1,32})?|true|false|null|none")
_ALSO_NUMBERS = frozenset(("otp", "pin"))


#: What the operator of this process hides beside: the patterns as they were written, and as they are run.
_extra: tuple[str, ...] = ()
_extra_hidden: tuple[re.Pattern[str], ...] = ()


def hide_also(patterns: Iterable[str]) -> None:
    """Hide what these patterns match, from now on and in the whole process, in place of those given before.

    They are of the process as its log and its standard error are: whoever shows a text need not be handed them, so
    that nobody can forget to pass them on. That they take linear time was checked with the configuration.
    """
    global _extra, _extra_hidden
    _extra = tuple(patterns)
    # What is hidden already is taken whole, so that hiding twice is hiding once.
    _extra_hidden = tuple(re.compile(f"{REDACTED}|(?:{pattern})") for pattern in _extra)


def hidden_also() -> tuple[str, ...]:
    """Return the patterns that `hide_also` was given."""
    return _extra


def _hide_extra(text: str) -> str:
    for pattern in _extra_hidden:
        text = pattern.sub(lambda match: REDACTED if match[0] else "", text)
    return text


def redact_text(text: str, known: Iterable[str] = ()) -> str:
    """Return `text` without secrets: those of `known`, what is hidden beside, and what has a secret's shape."""
    if len(text) > _TEXT_MAX_CHARS:
        return f"<omitted {len(text)} chars>"
    for value in known:
        if len(value) >= KNOWN_MIN_CHARS and value in text:
            text = text.replace(value, REDACTED)
    if _extra_hidden:
        text = _hide_extra(text)
    if _TRIGGER.search(text) is None:
        return text
    text = _USERINFO.sub(rf"\1{REDACTED}@", text)
    text = _SHAPES.sub(REDACTED, text)
    text = _COOKIE.sub(rf"\1\2{REDACTED}", text)
    text = _SCHEME.sub(rf"\1 {REDACTED}", text)
    text = _QUERY.sub(rf"\1{REDACTED}", text)
    return _hide_pairs(text)


def _hide_pairs(text: str) -> str:
    """Hide what stands behind a telling key."""
    parts, done = [], 0
    for match in _KEY.finditer(text):
        key = match[1]
        if match.start() < done or not is_sensitive_key(key):
            continue
        value = _VALUE.match(text, match.end())
        if value is None or _stays(key, value):
            continue
        opening = value["open"] or ("" if value["bare"] is not None else text[match.end()])
        parts += [text[done : match.end()], opening, REDACTED]
        done = value.end()
    return "".join([*parts, text[done:]]) if parts else text


def _stays(key: str, value: re.Match[str]) -> bool:
    """Return whether a value is a number or the like, or a scheme whose credential is gone already."""
    text = value["escaped"] or value["double"] or value["single"] or value["bare"]
    if value["bare"] is not None and text.lower() in ("bearer", "basic"):
        return True
    return _PLAIN.fullmatch(text) is not None and _ALSO_NUMBERS.isdisjoint(words_of(key))


def hide_keys(text: str) -> str:
    """Return a client's word without what has the shape of a vendor's key: it was pasted into the wrong field."""
    if _extra_hidden and text:
        text = _hide_extra(text)
    return _SHAPES.sub(REDACTED, text) if text else text


def has_secret_shape(text: str) -> bool:
    """Return whether `text` holds something of the shape of a vendor's key."""
    return _SHAPES.search(text) is not None


#: Every shape above holds one of these; a text without them is looked at once and not six times.
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


def words_of(key: str) -> list[str]:
    """Return the words of a key, split at camelCase and everything that is no letter or digit, in lower case."""
    return [word.lower() for word in _WORD.findall(key)]


@functools.lru_cache(maxsize=4_096)
def is_sensitive_key(key: str) -> bool:
    """Return whether a mapping's key names something secret, judged by whole words: `max_tokens` does not."""
    if key in _ALLOWED_KEYS or key.startswith(("token_estimate", "max_token")):
        return False
    words = words_of(key)
    if "tokens" in words:
        return False
    return any(word in _SENSITIVE_WORDS for word in words) or any(
        pair in _SENSITIVE_PAIRS for pair in itertools.pairwise(words)
    )


def redact(value: Any, known: Iterable[str] = ()) -> Any:
    """Return a copy of plain data (dict, list, str, numbers) without secrets; counters survive."""
    if isinstance(value, str):
        return redact_text(value, known)
    if isinstance(value, dict):
        return {redact_text(str(key), known): _redact_under(str(key), item, known) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(item, known) for item in value]
    if isinstance(value, (bytes, Secret)):
        return REDACTED
    return value


def _redact_under(key: str, value: Any, known: Iterable[str]) -> Any:
    if not is_sensitive_key(key):
        return redact(value, known)
    return _hidden(value, hides_numbers=not _ALSO_NUMBERS.isdisjoint(words_of(key)))


def _hidden(value: Any, *, hides_numbers: bool) -> Any:
    """Return what stands under a telling key: texts are gone, whole numbers, booleans and null stay."""
    if isinstance(value, dict):
        return {key: _hidden(item, hides_numbers=hides_numbers) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hidden(item, hides_numbers=hides_numbers) for item in value]
    if value is None or isinstance(value, bool) or (isinstance(value, int) and not hides_numbers):
        return value
    return REDACTED


def clean_message(text: str, known: Iterable[str] = (), max_chars: int = 240) -> str:
    """Return somebody else's message fit to be stored or shown: one line, no secrets, cut."""
    flat = "".join(" " if char in "\r\n\t" else char for char in text if char >= " " or char in "\r\n\t")
    return redact_text(flat[:_TEXT_MAX_CHARS], known)[:max_chars]


#: Shorter values are no secrets, and would be found everywhere.
KNOWN_MIN_CHARS = 8
#: What any vendor's key in a fact begins with.
_PREFIX = re.compile(
    rb"sk-|gsk_|xai-|pplx-|hf_|r8_|gh[opusr]_|github_pat_|xox|AIza|A(?:KIA|SIA)|palyra_|eyJ|PRIVATE"
)
#: What a fact may not hold of secrets that are held now begins at this length.
_GUARDED_MIN_CHARS = 16
#: Length of the stretches that are looked at, and how far apart: no form of the least length lies between two.
_MARK_BYTES = 8
_MARKS_APART_BYTES = _GUARDED_MIN_CHARS - _MARK_BYTES + 1


class KnownSecrets:
    """The secrets that a process holds right now, in every form in which they may turn up."""

    def __init__(self) -> None:
        self._by_name: dict[str, tuple[Secret, ...]] = {}
        #: All forms, the longest first, so that none is cut by a shorter one inside it.
        self.forms: tuple[str, ...] = ()
        self._guarded: tuple[bytes, ...] = ()
        self._marks: frozenset[bytes] = frozenset()

    def hold(self, name: str, *secrets: Secret) -> None:
        """Know the secrets of a place from now on, in place of those it had."""
        if secrets == self._by_name.get(name):
            return
        self._by_name[name] = secrets
        every = {form: None for held in self._by_name.values() for secret in held for form in forms_of(secret)}
        self.forms = tuple(sorted(every, key=len, reverse=True))
        self._guarded = tuple(form.encode() for form in self.forms if len(form) >= _GUARDED_MIN_CHARS)
        self._marks = frozenset(
            form[first : first + _MARK_BYTES] for form in self._guarded for first in range(_MARKS_APART_BYTES)
        )

    def let_go(self, prefix: str) -> None:
        """Know no more what is held under names that begin so: the secrets are gone."""
        for name in [one for one in self._by_name if one.startswith(prefix)]:
            self.hold(name)
            del self._by_name[name]

    def are_in(self, data: bytes) -> bool:
        """Return whether bytes hold a known secret, or something of the shape of a vendor's key."""
        if self._may_be_in(data) and any(data.find(form) >= 0 for form in self._guarded):
            return True
        return _PREFIX.search(data) is not None and has_secret_shape(data.decode("utf-8", "replace"))

    def _may_be_in(self, data: bytes) -> bool:
        """Return whether one of the known forms could be there, in one pass whatever their number.

        A form of 16 bytes covers a stretch of 8 that begins where one in 9 is looked at, so that the first 9
        stretches of each form are enough to know.
        """
        last = len(data) - _MARK_BYTES + 1
        return not self._marks.isdisjoint(
            [data[first : first + _MARK_BYTES] for first in range(0, last, _MARKS_APART_BYTES)]
        )


def forms_of(secret: Secret) -> tuple[str, ...]:
    """Return a secret as it is, in base64 of both alphabets, percent-encoded and JSON-escaped; shorter ones not."""
    value = secret._value
    if len(value) < KNOWN_MIN_CHARS:
        return ()
    data = value.encode("utf-8", "surrogatepass")
    forms = [
        value,
        quote(value, safe=""),
        quote(value),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
    ]
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(data).decode()
        forms += [encoded, encoded.rstrip("=")]
    return tuple(dict.fromkeys(forms))
