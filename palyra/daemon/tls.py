"""TLS of the web server: certificate, key and the authority of client certificates, read again when they change.

Files are looked at when somebody connects; a handshake gets what is in them then. What cannot be used any more, or
not yet (a certificate whose key is still to be written), is told once and the old files stay in use.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from palyra.config.tree import Config, DaemonConfig
from palyra.errors import ConfigInvalid
from palyra.units import US_PER_S

#: How long before its end a certificate is warned about.
EXPIRES_SOON_US = 21 * 86_400 * US_PER_S
_OTHERS = 0o077
_SHARED_DIRECTORY = Path("/run/secrets")


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where they are."""

    cert_file: Path
    key_file: Path
    #: Clients need a certificate of this authority; None for everybody.
    client_ca_file: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        found = (self.cert_file, self.key_file)
        return found if self.client_ca_file is None else (*found, self.client_ca_file)


class TlsContext:
    """The server's context; `context` goes to the listener once and for all."""

    def __init__(self, files: TlsFiles, on_trouble: Callable[[str], None]) -> None:
        """Read the files; raises `ConfigInvalid`. `on_trouble` is told what keeps changed ones from being used."""
        self._files = files
        self._on_trouble = on_trouble
        self._seen = self._look()
        self.context = self._current = self._load()
        self.context.sni_callback = self._renew

    def _renew(self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Give a handshake that begins the files as they are now; OpenSSL calls this with a name and without."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._current = self._load()
            except ConfigInvalid as exc:
                self._on_trouble(str(exc))
        connection.context = self._current

    @property
    def expires_us(self) -> int:
        """When the certificate that is in its file ends."""
        from cryptography import x509  # half a start, and only where there is TLS

        certificate = x509.load_pem_x509_certificate(self._files.cert_file.read_bytes())
        return int(certificate.not_valid_after_utc.timestamp()) * US_PER_S

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_mark(path) for path in self._files.paths]

    def _load(self) -> ssl.SSLContext:
        _check_key(self._files.key_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # A key that wants a passphrase must not make the daemon ask for one.
            context.load_cert_chain(self._files.cert_file, self._files.key_file, password=lambda: "")
            if self._files.client_ca_file is not None:
                context.load_verify_locations(self._files.client_ca_file)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "reason", None) or getattr(exc, "strerror", None) or "cannot be used"
            names = ", ".join(map(str, self._files.paths))
            raise ConfigInvalid(f"the TLS files {names} are no certificate with its key: {reason}") from exc
        return context


def tls_of(config: DaemonConfig, on_trouble: Callable[[str], None]) -> TlsContext | None:
    """Return the TLS that is configured, None for none; raises `ConfigInvalid`."""
    if not config.tls_cert_file:
        return None
    authority = Path(config.tls_client_ca_file) if config.tls_client_ca_file else None
    files = TlsFiles(
        cert_file=Path(config.tls_cert_file), key_file=Path(config.tls_key_file), client_ca_file=authority
    )
    return TlsContext(files, on_trouble)


def hosts_of(config: Config) -> list[str]:
    """Return the names that a Host header may hold beside those of this machine."""
    public = urlsplit(config.daemon.public_url).hostname
    return [*config.auth.extra_hosts, *([public] if public else [])]


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Return what tells a file from what was in its place before; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _check_key(path: Path) -> None:
    """Refuse a private key that others could read; a secret that a container is given may be read by all of it."""
    try:
        found = path.stat()
    except OSError as exc:
        raise ConfigInvalid(f"the TLS key {path} cannot be read: {exc.strerror}") from exc
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()):
        raise ConfigInvalid(f"the TLS key {path} is not a plain file of this user", hint=f"look at: ls -l '{path}'")
    is_shared = path.resolve().is_relative_to(_SHARED_DIRECTORY)
    if found.st_mode & _OTHERS and not is_shared:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigInvalid(f"the TLS key {path} has mode {mode:04o}, wanted 0600", hint=f"run: chmod 600 '{path}'")
