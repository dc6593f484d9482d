"""Snapshots made beside the daemon: a process folds the file on from its newest snapshot, and keeps the state.

The live state is never encoded while somebody waits for the loop: encoding 100,000 of anything takes longer than
one turn may, and no thread can do it while the state moves. What the process keeps is what it folded itself from
the same rows, so `palyra journal verify --replay` compares the work of two processes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from pathlib import Path

import palyra
from palyra.engine.codec import state_digest
from palyra.engine.replay import fold_file
from palyra.errors import JournalDamaged, JournalUnwritable, PalyraError
from palyra.journal.port import Snapshot
from palyra.journal.reader import JournalReader
from palyra.journal.snapshots import SNAPSHOTS_FILE, SnapshotFile
from palyra.projections.state import encode_state

#: Requests go first.
_NICENESS = 10
#: The package is found where ours was, and nothing is imported from the working directory.
_CHILD = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    " from palyra.engine.snapshotting import main; sys.exit(main(sys.argv[2]))"
)


def keep_snapshot(path: Path) -> int:
    """Fold a journal file to its head, keep the state beside it, and return its position.

    Synchronous, beside a live daemon or without one. Raises `JournalError`.
    """
    folded = fold_file(path)
    position = folded.state.position
    with JournalReader(path) as reader:
        link = reader.link(position)
    if link is None:
        raise JournalDamaged(f"The journal has no row at position {position}.")
    snapshot = Snapshot(position, link, state_digest(), encode_state(folded.state))
    SnapshotFile(path.with_name(SNAPSHOTS_FILE)).save(snapshot)
    return position


async def keep_snapshot_aside(path: Path) -> int:
    """Have `keep_snapshot` done by a process of its own; returns the position. Being cancelled ends the process.

    Raises `JournalUnwritable` with the sentence that the process said. The process is waited for in a thread: a
    program that embeds a daemon may run its loop anywhere, and keeps its signals to itself.
    """
    process = _begin(path)
    ended = asyncio.get_running_loop().run_in_executor(None, process.communicate)
    try:
        said, complaint = await asyncio.shield(ended)
    except asyncio.CancelledError:
        process.kill()
        await ended
        raise
    if process.returncode != 0:
        sentence = complaint.decode(errors="replace").strip().rpartition("\n")[2] or f"exit {process.returncode}"
        raise JournalUnwritable(f"No snapshot was kept: {sentence}")
    return int(said)


def _begin(path: Path) -> subprocess.Popen[bytes]:
    home = Path(palyra.__file__).resolve().parents[1]
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _CHILD, str(home), str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def main(path: str) -> int:
    """Keep a snapshot and write its position; a refusal is a sentence on stderr."""
    os.nice(_NICENESS)
    gc.disable()  # nothing is let go of before the end
    try:
        sys.stdout.write(str(keep_snapshot(Path(path))))
    except PalyraError as error:
        sys.stderr.write(str(error))
        return 1
    return 0
