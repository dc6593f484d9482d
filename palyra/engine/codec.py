"""Between stored rows and facts, and the digest that says which code folded a state."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
from collections.abc import Iterable, Iterator

import msgspec

from palyra.errors import JournalDamaged, JournalNewer
from palyra.events.base import Recorded, UnknownEvent
from palyra.events.vocabulary import VOCABULARY
from palyra.journal.port import Row
from palyra.journal.reader import PackedRow, unpacked

#: Looked up once: replay is bound by what stands between two rows.
_decode = VOCABULARY.decode


def to_row(recorded: Recorded, encoded: tuple[str, int, bytes] | None = None) -> Row:
    """Return the row that stores a fact; `encoded` is what `encode_fact` gave for it."""
    name, schema, body = encoded or VOCABULARY.encode(recorded.body)
    return Row(
        recorded.position,
        recorded.stream,
        recorded.version,
        name,
        schema,
        recorded.recorded_at_us,
        recorded.actor,
        recorded.correlation,
        recorded.causation,
        recorded.command_key,
        body,
    )


encode_fact = VOCABULARY.encode


def to_recorded(row: Row) -> Recorded:
    """Return the fact of a stored row; raises `JournalDamaged` when its bytes are not the fact's shape."""
    position, stream, version, name, schema, recorded_at_us, actor, correlation, causation, key, body = row
    try:
        fact = _decode(name, schema, body)
    except msgspec.DecodeError as exc:
        raise _unreadable(position, name, exc) from exc
    return Recorded(position, stream, version, recorded_at_us, actor, correlation, causation, key, fact)


def to_known(row: Row) -> Recorded:
    """Return the fact of a row that is to be folded.

    Raises `JournalNewer` for what only a newer release knows, `JournalDamaged` for bytes that are not its shape.
    """
    recorded = to_recorded(row)
    if type(recorded.body) is UnknownEvent:
        raise JournalNewer(
            f"position {row.position} holds '{row.name}' of a newer release; this one can list and"
            " verify the journal but neither fold nor write it",
            hint="install the release that wrote it",
        )
    return recorded


def all_known(rows: Iterable[PackedRow]) -> Iterator[Recorded]:
    """Yield the facts of rows that are to be folded; raises like `to_known`.

    Replay is bound by this loop, so what most rows need is in it: the decoder of their kind.
    """
    decoders = VOCABULARY.decoders
    position, kind = 0, ""
    try:
        for row in rows:
            position, stream, version, kind, recorded_at_us, actor, aside, body = row
            decode = decoders.get(kind)
            if decode is None or aside is not None:
                yield to_known(unpacked(row))
            else:
                yield Recorded(position, stream, version, recorded_at_us, actor, "", 0, "", decode(body))
    except msgspec.DecodeError as exc:
        raise _unreadable(position, kind, exc) from exc


def _unreadable(position: int, name: str, exc: msgspec.DecodeError) -> JournalDamaged:
    return JournalDamaged(f"position {position} holds no '{name}' that can be read: {exc}")


@functools.cache
def state_digest() -> str:
    """Return the digest of the code that folds: a snapshot made by any other is not used.

    The sources themselves are the only description of `evolve` that cannot be forgotten when it changes.
    """
    digest = hashlib.sha256(msgspec.__version__.encode())
    for room in ("events", "projections"):
        folder = importlib.resources.files("palyra") / room
        for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if file.name.endswith(".py"):
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:32]
