"""`vault.lock`: the kernel lock of whoever may write the vault; freed when its holder dies, and never stolen."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from palyra.errors import VaultError

_LOOK_MS = 20


class VaultLock:
    """The lock, held from `acquire` to `release`, or to the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, path: Path, *, timeout_ms: int) -> Self:
        """Take the lock; raises `VaultError` (`vault_busy`) when another process holds it for longer than that."""
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        waited_ms = 0
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return cls(descriptor)
                except BlockingIOError:
                    if waited_ms >= timeout_ms:
                        message = f"Another process holds {path}."
                        raise VaultError(message, hint="try again when it is done", code="vault_busy") from None
                time.sleep(_LOOK_MS / 1_000)
                waited_ms += _LOOK_MS
        except BaseException:
            os.close(descriptor)
            raise

    def release(self) -> None:
        """Let go of it; idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
