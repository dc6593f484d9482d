"""`/healthz` and `/readyz`: one word each, for whoever starts and watches the process."""

from __future__ import annotations

ALIVE = b'{"status":"alive"}'


def readiness(*, is_draining: bool, is_writable: bool) -> tuple[int, bytes]:
    """Return status and body of `/readyz`. Providers that are down do not make the gateway unready."""
    if is_draining:
        return 503, b'{"status":"draining"}'
    if not is_writable:
        return 503, b'{"status":"journal_unwritable"}'
    return 200, b'{"status":"ready"}'
