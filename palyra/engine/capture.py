"""Capsules and the journal: take one out of a journal file, write it, read it back.

Synchronous and read-only, beside a live daemon or without one. What a capsule holds stands in
`decisions/capsule.py`, how it is decided again in `decisions/redecide.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

import palyra
from palyra.decisions.capsule import FORMAT, VERSION, Capsule, CapsuleMaker, recorded_of
from palyra.engine.replay import fold_file, recorded_in, run_view
from palyra.errors import PalyraError
from palyra.events.base import Recorded, UnknownEvent
from palyra.journal.reader import JournalReader
from palyra.limits import CAPSULE_MAX_BYTES
from palyra.projections.run_view import RunView
from palyra.projections.state import State


def capture(path: Path, run_id: str) -> Capsule:
    """Return the capsule of a run, of an open one as far as it has come; raises `run_not_found`."""
    view = run_view(path, run_id)
    if view is None:
        raise PalyraError(f"There is no run '{run_id}'.", code="run_not_found")
    with JournalReader(path) as reader:
        before = view.first_position - 1
        state = fold_file(path, upto=before).state
        return make_capsule(view, state, recorded_in(reader, before), key=reader.journal_id)


def make_capsule(view: RunView, state: State, events: Iterable[Recorded], *, key: str) -> Capsule:
    """Return the capsule of a run from the state before its first event and all events from that one on."""
    asked = view.admitted or view.refused
    maker = CapsuleMaker(
        state,
        run_id=view.run_id,
        role=asked.endpoint if asked is not None else "",
        key=key,
        release=palyra.__version__,
        asked=asked,
    )
    for recorded in events:
        # A settlement ends with facts of other streams that belong to it.
        is_behind = view.state != "open" and recorded.position > view.last_position
        if is_behind and recorded.correlation != f"run-{view.run_id}":
            break
        maker.add(recorded)
    return maker.capsule()


def encode_capsule(capsule: Capsule) -> bytes:
    """Return a capsule as the JSON text that is kept; raises `capsule_too_large`."""
    text = msgspec.json.format(msgspec.json.encode(capsule, order="deterministic"), indent=1) + b"\n"
    if len(text) > CAPSULE_MAX_BYTES:
        size_mib = CAPSULE_MAX_BYTES >> 20
        message = f"The capsule would be larger than {size_mib} MiB: the run has {len(capsule.events)} events."
        raise PalyraError(message, code="capsule_too_large")
    return text


def read_capsule(path: Path) -> Capsule:
    """Return the capsule in a file; raises `import_damaged`, `unsupported_version` and `OSError`."""
    with path.open("rb") as file:
        return decode_capsule(file.read(CAPSULE_MAX_BYTES + 1))


def decode_capsule(text: bytes) -> Capsule:
    """Return the capsule of a JSON text, checked as far as deciding it again needs.

    Raises `import_damaged`, and `unsupported_version` for what only a newer release can read.
    """
    if len(text) > CAPSULE_MAX_BYTES:
        raise _damaged(f"it has more than {CAPSULE_MAX_BYTES >> 20} MiB")
    try:
        head = msgspec.json.decode(text, type=dict[str, Any])
        if head.get("format") != FORMAT:
            raise _damaged("it says another format")
        if head.get("version") != VERSION:
            raise PalyraError(f"The capsule has version {head.get('version')!r}.", code="unsupported_version")
        capsule = msgspec.json.decode(text, type=Capsule)
        events = [recorded_of(event) for event in capsule.events]
    except msgspec.DecodeError as error:
        raise _damaged(str(error)) from error
    except RecursionError as error:
        raise _damaged("it is nested too deeply") from error
    if unknown := [one.body.name for one in events if isinstance(one.body, UnknownEvent)]:
        raise PalyraError(f"The capsule holds '{unknown[0]}' of another release.", code="unsupported_version")
    for ground in capsule.ground:
        if ground.registry is not None:
            providers = {entry.provider_id for entry in ground.registry.providers}
            if strays := [one.model_id for one in ground.registry.models if one.provider_id not in providers]:
                raise _damaged(f"its model '{strays[0]}' has no provider")
    return capsule


def _damaged(why: str) -> PalyraError:
    return PalyraError(f"This is no capsule: {why}.", code="import_damaged")
