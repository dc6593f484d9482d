"""Reasoning as cargo: how a vendor's block travels through a client that speaks another dialect, and back.

A block is never looked into on the way and never becomes text; a client gives it back as it came, and only its own
vendor gets to see it again. Ids that a dialect cannot hold are replaced by ones that follow from them alone, so
that nothing has to be remembered (gateway specification 12.1, 12.2).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType

from palyra.wire.neutral import Dialect

_MARK = "palyra1."
#: In bodies; a body without it holds no cargo of ours.
MARK = b'"' + _MARK.encode()
#: Type of an element of `reasoning_details` that is ours.
OPAQUE = "palyra.opaque"

_HASH_CHARS = 24
_IDS: Mapping[Dialect, re.Pattern[str]] = MappingProxyType(
    {
        "chat": re.compile(r"[\x21-\x7e]{1,40}"),
        "messages": re.compile(r"[A-Za-z0-9_-]{1,64}"),
        "responses": re.compile(r"[A-Za-z0-9_-]{1,64}"),
    }
)
_PREFIXES: Mapping[Dialect, str] = MappingProxyType({"chat": "call_", "messages": "toolu_", "responses": "call_"})


def seal(vendor: str, raw: bytes) -> str:
    """Return cargo as a text that fits where a signature or encrypted content stands."""
    return f"{_MARK}{vendor}.{base64.urlsafe_b64encode(raw).decode().rstrip('=')}"


def unseal(text: str) -> tuple[str, bytes] | None:
    """Return vendor and block of such a text; None for anything else."""
    if not text.startswith(_MARK):
        return None
    vendor, dot, packed = text.removeprefix(_MARK).rpartition(".")
    try:
        raw = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None
    return (vendor, raw) if dot and vendor else None


def pack(raw: bytes) -> str:
    """Return a block as plain base64, for `reasoning_details`."""
    return base64.b64encode(raw).decode()


def unpack(text: str) -> bytes | None:
    """Return the block behind `pack`; None for what is no base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def fit_id(dialect: Dialect, call_id: str) -> str:
    """Return the id of a call as a dialect can hold it: the same one if it can, else one made of its digest."""
    if _IDS[dialect].fullmatch(call_id):
        return call_id
    return made_id(_PREFIXES[dialect], call_id)


def made_id(prefix: str, *parts: object) -> str:
    """Return an id that follows from the parts: the prefix and 24 characters of base32 of their SHA-256."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return prefix + base64.b32encode(digest).decode()[:_HASH_CHARS].lower()
