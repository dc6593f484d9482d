"""The witness: a note of the journal's head outside the database, `journal.head`, that can be copied elsewhere.

The chain in the journal proves that rows follow one another; it cannot prove that the last ones are still there,
nor that the whole was not written anew. The note names position and link of a head that was durable, under an
HMAC-SHA256 whose key the caller derives from the vault (RFC 2104). Without a key the note is written and compared
all the same and the answer says `witness_unkeyed`, because a lost key must not cost the log. Such a note takes
the last signed one along: when the key is back that one is checked under it, and what came after by digest alone,
as it was while the key was away. A note with neither is a forgery where there is a key.
"""

from __future__ import annotations

import hmac
import os
import tempfile
from pathlib import Path

import msgspec

from palyra.errors import JournalDamaged
from palyra.journal.disk import sync_directory
from palyra.journal.findings import Finding, finding
from palyra.journal.migrations import refuse_newer, released_migrations
from palyra.journal.port import Head
from palyra.journal.reader import JournalReader, read_making

WITNESS_FILE = "journal.head"


class Witness(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the note says."""

    journal_id: str
    position: int
    #: Hexadecimal link at `position`.
    link: str
    #: When the note was written.
    at_us: int
    #: Hexadecimal HMAC-SHA256 over the fields above; "" when there was no key.
    mac: str = ""
    #: Of a note without HMAC: the last one before it that had one.
    signed: Witness | None = None


def make_witness(journal_id: str, head: Head, at_us: int, key: bytes | None) -> Witness:
    """Return the note for a durable head."""
    unsigned = Witness(journal_id=journal_id, position=head.position, link=head.link.hex(), at_us=at_us)
    return unsigned if key is None else msgspec.structs.replace(unsigned, mac=_mac(unsigned, key))


def write_witness(path: Path, witness: Witness) -> None:
    """Replace the note at `path` by this one, whole or not at all; raises `OSError`.

    One without HMAC takes the last signed note of the same journal along.
    """
    if not witness.mac:
        witness = _carrying(witness, path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(witness) + b"\n")
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _carrying(witness: Witness, path: Path) -> Witness:
    try:
        before = read_witness(path)
    except (OSError, msgspec.DecodeError):
        before = None
    signed = before if before is None or before.mac else before.signed
    if signed is None or signed.journal_id != witness.journal_id or signed.position > witness.position:
        return witness
    return msgspec.structs.replace(witness, signed=signed)


def read_witness(path: Path) -> Witness | None:
    """Return the note at `path`, None if there is none; raises `msgspec.DecodeError` when it is no note."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    return msgspec.json.decode(text, type=Witness)


def was_begun(journal: Path, note: Path) -> bool:
    """Return whether a journal holds anything that a check could miss; a first start that was killed left nothing.

    Raises `JournalNewer`, and `JournalDamaged` when the file is no journal, or gone although there is a note of it.
    """
    has_id = False
    if journal.exists() and journal.stat().st_size:
        number, has_id = read_making(journal)
        refuse_newer(number, released_migrations())
    if not has_id and note.exists():
        raise JournalDamaged(f"The journal {journal} is gone or empty, but {note.name} says that there was one.")
    if not has_id:
        return False
    with JournalReader(journal) as reader:
        return reader.head().position > 0 or note.exists()


def check_witness(path: Path, reader: JournalReader, key: bytes | None) -> list[Finding]:
    """Compare the note at `path` with the journal; no finding means that the note vouches for it.

    The codes are `witness_missing`, `witness_mismatch`, `tail_cut` and, as information, `witness_unkeyed`.
    """
    try:
        witness = read_witness(path)
    except msgspec.DecodeError as exc:
        return [finding("witness_mismatch", expected="a note of the head", found=exc)]
    if witness is None:
        return [finding("witness_missing", expected=path.name)]
    return _compare(witness, reader, key)


def _compare(witness: Witness, reader: JournalReader, key: bytes | None) -> list[Finding]:
    if key is not None and not witness.mac and witness.signed is not None:
        # The key was away for a while: what it signed before holds, the rest is what it was then.
        return _compare(witness.signed, reader, key) or _compare(witness, reader, None)
    if key is not None and not hmac.compare_digest(witness.mac, _mac(witness, key)):
        found = "another HMAC" if witness.mac else "no HMAC"
        return [finding("witness_mismatch", expected="a note under our key", found=found)]
    if witness.journal_id != reader.journal_id:
        return [finding("witness_mismatch", expected=witness.journal_id, found=reader.journal_id)]
    findings = [finding("witness_unkeyed")] if key is None else []
    head = reader.head()
    if head.position < witness.position:
        findings.append(finding("tail_cut", position=head.position, expected=witness.position, found=head.position))
    elif (link := reader.link(witness.position)) is None or link.hex() != witness.link:
        found = link.hex() if link else "no row"
        findings.append(finding("witness_mismatch", position=witness.position, expected=witness.link, found=found))
    return findings


def _mac(witness: Witness, key: bytes) -> str:
    text = f"palyra.witness/1\n{witness.journal_id}\n{witness.position}\n{witness.link}\n{witness.at_us}\n"
    return hmac.digest(key, text.encode(), "sha256").hex()
