"""The hash chain: each row's link covers the row and the link before it.

::

    link(0) = SHA-256("palyra.journal/1\\n" + journal_id)
    link(p) = SHA-256(link(p - 1) + header + texts + body)

The header is five 64-bit integers (position, version, schema, recorded_at_us, causation) followed by the byte
lengths of the five texts (stream, name, actor, correlation, command_key) and of the body, 32 bits each, all
big-endian: fixed widths and named lengths, so that no two rows have the same bytes. The layout is frozen: a change
makes every existing journal look tampered with. A golden value in the tests holds it in place.

The chain finds accident and partial edits. It cannot see a cut tail or a complete rewrite; the witness does.
"""

from __future__ import annotations

import struct
from hashlib import sha256

from palyra.journal.port import Row

_pack_header = struct.Struct(">5q6I").pack


def genesis_link(journal_id: str) -> bytes:
    """Return the link before the first row."""
    return sha256(b"palyra.journal/1\n" + journal_id.encode()).digest()


def stored_link(
    previous: bytes,
    position: int,
    stream: bytes,
    version: int,
    name: bytes,
    schema: int,
    recorded_at_us: int,
    actor: bytes,
    correlation: bytes,
    causation: int,
    command_key: bytes,
    body: bytes,
) -> bytes:
    """Return the link of a row given as its stored bytes, whether they are valid text or not."""
    header = _pack_header(
        position,
        version,
        schema,
        recorded_at_us,
        causation,
        len(stream),
        len(name),
        len(actor),
        len(correlation),
        len(command_key),
        len(body),
    )
    return sha256(b"".join((previous, header, stream, name, actor, correlation, command_key, body))).digest()


def row_link(previous: bytes, row: Row) -> bytes:
    """Return the link of a row that is about to be stored."""
    position, stream, version, name, schema, recorded_at_us, actor, correlation, causation, key, body = row
    return stored_link(
        previous,
        position,
        stream.encode(),
        version,
        name.encode(),
        schema,
        recorded_at_us,
        actor.encode(),
        correlation.encode(),
        causation,
        key.encode(),
        body,
    )
