"""A configuration that serves recorded exchanges and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from palyra.errors import ConfigInvalid, reason_of
from palyra.wire.dialects import DIALECT_ROWS
from palyra.wire.fixtures import BadFixture, read_lines

_HINT = "palyra fixtures record makes such a file"


def mount_fixtures(
    path: str | os.PathLike[str],
    *,
    mode: Literal["strict", "lenient"] = "strict",
    timing: Literal["instant", "recorded"] = "instant",
) -> dict[str, Any]:
    """Return the configuration of a daemon that serves a file of `palyra fixtures record`, and nothing else.

    Its models have the names under which they were asked. `mode` says what becomes of a request that was not
    recorded: it fails, or the last user text is its answer. With `timing="recorded"` answers take their time.

    Raises `ConfigInvalid` for a file that is none.
    """
    file = Path(path)
    try:
        recorded = read_lines(file.read_bytes())
    except OSError as exc:
        raise ConfigInvalid(f"{file} cannot be replayed: {reason_of(exc)}", hint=_HINT) from exc
    except BadFixture as exc:
        raise ConfigInvalid(f"{file} cannot be replayed: {exc}", hint=_HINT) from exc
    roles = {(one.model, "chat" if one.surface in DIALECT_ROWS else one.surface): None for one in recorded}
    provider = {
        "provider_id": "fixtures",
        "kind": "deterministic",
        "fixtures": str(file.absolute()),
        "fixture_mode": mode,
        "fixture_timing": timing,
    }
    models = [{"model_id": model, "provider_id": "fixtures", "role": role} for model, role in roles]
    return {"model_provider": {"providers": [provider], "models": models}}
