"""Where a daemon may listen: beyond this machine only with TLS, or where somebody says that a proxy has it."""

from __future__ import annotations

from palyra.config.values import Reading
from palyra.wire.netguard import classify_address

_HOST, _CERT, _KEY, _CA = "daemon.host", "daemon.tls_cert_file", "daemon.tls_key_file", "daemon.tls_client_ca_file"
_REMOTE, _PLAIN = "daemon.allow_remote", "daemon.allow_plain_remote"


def is_on_this_machine(host: str) -> bool:
    """Return whether a listener reaches nobody else."""
    return host == "localhost" or classify_address(host) == "loopback"


def check_listening(reading: Reading) -> None:
    """Refuse a listener that would be open to others without anybody having said so."""
    root = reading.root
    cert, key = root.get(_CERT), root.get(_KEY)
    if bool(cert) != bool(key):
        message = "a certificate and its key belong together; set both daemon.tls_cert_file and daemon.tls_key_file"
        reading.refuse("conflicting_keys", root, _CERT if cert else _KEY, message)
    elif root.get(_CA) and not cert:
        message = "means nothing without daemon.tls_cert_file and daemon.tls_key_file"
        reading.refuse("conflicting_keys", root, _CA, message)
    if _HOST in root.faulty or is_on_this_machine(root.get(_HOST)):
        return
    if cert and root.get(_REMOTE):
        return
    if root.get(_PLAIN):
        if not cert:
            message = "everybody on the way can read keys and texts unless a proxy in front has TLS"
            reading.warn("plain_remote", root, _PLAIN, message)
        return
    message = (
        "is open to other machines: that takes daemon.allow_remote and daemon.tls_cert_file with its key,"
        " or daemon.allow_plain_remote behind a proxy that has TLS"
    )
    reading.refuse("unsafe_bind", root, _HOST, message)
