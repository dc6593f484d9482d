"""The control socket: a Unix socket that only its owner can open, and whose callers the kernel names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from pathlib import Path

from palyra.errors import StateError

_BACKLOG_COUNT = 64
#: Darwin's way to ask: level, option, and a `struct xucred` that begins with its version and the uid.
_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES = 0, 1, 76


def bind_socket(path: Path) -> socket.socket:
    """Bind the control socket; what a dead process left there is replaced. The journal's lock is held.

    Nobody can connect before it has its mode. Raises `StateError`.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        bound.bind(str(path))
        path.chmod(0o600)
        bound.setblocking(False)
        bound.listen(_BACKLOG_COUNT)
    except OSError as exc:
        bound.close()
        message = f"the control socket {path} cannot be made: {exc.strerror}"
        hint = "palyra serve --set daemon.control_socket=false does without it"
        raise StateError(message, hint=hint, code="bad_path") from exc
    return bound


def remove_socket(path: Path) -> None:
    """Take the name away; connections that are open stay."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def is_local(transport: asyncio.BaseTransport) -> bool:
    """Return whether a connection came over a Unix socket."""
    found = transport.get_extra_info("socket")
    return found is not None and found.family == socket.AF_UNIX


def is_ours(transport: asyncio.BaseTransport) -> bool:
    """Return whether the process at the other end of a Unix socket runs as we do."""
    return _peer_uid(transport.get_extra_info("socket").fileno()) == os.geteuid()


def _peer_uid(descriptor: int) -> int | None:
    with socket.socket(fileno=os.dup(descriptor)) as peer:
        try:
            if hasattr(socket, "SO_PEERCRED"):
                size = struct.calcsize("3i")
                return int(struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1])
            record = peer.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
            return int(struct.unpack_from("2I", record)[1])
        except OSError:
            return None
