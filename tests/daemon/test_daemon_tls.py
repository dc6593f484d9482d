"""TLS of the listener: versions, changed files, client certificates, and what only an encrypted way may do."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import palyra
from palyra.auth.keyfiles import read_key_file
from palyra.daemon.logs import Log
from palyra.daemon.tls import TlsContext, TlsFiles
from palyra.engine.clock import SystemClock
from palyra.errors import ConfigInvalid

_FAR = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)


def certify(directory: Path, name: str, *, ends: datetime.datetime = _FAR) -> TlsFiles:
    """Write a certificate that signs itself, for localhost and its address, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = TlsFiles(cert_file=directory / "cert.pem", key_file=directory / "key.pem")
    plain = serialization.NoEncryption()
    data = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    for path, content in (
        (files.key_file, data),
        (files.cert_file, certificate.public_bytes(serialization.Encoding.PEM)),
    ):
        unfinished = path.with_suffix(".new")
        unfinished.touch(mode=0o600)
        unfinished.write_bytes(content)
        unfinished.rename(path)
    return files


def trusting(*files: TlsFiles, own: TlsFiles | None = None) -> ssl.SSLContext:
    """Return a client's context that trusts these certificates, and shows its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for one in files:
        context.load_verify_locations(one.cert_file)
    if own is not None:
        context.load_cert_chain(own.cert_file, own.key_file)
    return context


async def certificate_at(port: int, context: ssl.SSLContext, name: str | None) -> bytes:
    """Return the certificate that a listener shows; without a name it is told none."""
    context.check_hostname = name is not None
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name or "")
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    assert isinstance(shown, bytes)
    return shown


def der(files: TlsFiles) -> bytes:
    return ssl.PEM_cert_to_DER_cert(files.cert_file.read_text())


@contextlib.asynccontextmanager
async def served(tmp_path: Path) -> AsyncIterator[tuple[palyra.Daemon, TlsFiles]]:
    """Run a daemon with TLS and a public name."""
    (tmp_path / "tls").mkdir()
    files = certify(tmp_path / "tls", "palyra")
    config = {
        "daemon": {
            "tls_cert_file": str(files.cert_file),
            "tls_key_file": str(files.key_file),
            "public_url": "https://gateway.example",
        }
    }
    async with palyra.Daemon(config, state_dir=tmp_path / "state") as daemon:
        yield daemon, files


async def test_the_api_is_served_over_tls(tmp_path: Path) -> None:
    """1.2 at least; HSTS where the name is ours; the public name is a Host of ours; plain HTTP gets nothing."""
    async with served(tmp_path) as (daemon, files):
        assert daemon.url.startswith("https://127.0.0.1:")
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting(files))) as session:
            headers = {"authorization": f"Bearer {daemon.client_key}"}
            for host in ("127.0.0.1", "gateway.example"):
                async with session.get(f"{daemon.base_url}/models", headers={**headers, "host": host}) as answer:
                    assert answer.status == 200
                    assert answer.headers["strict-transport-security"] == "max-age=31536000"
        with pytest.raises(aiohttp.ClientError):
            async with aiohttp.ClientSession() as plain, plain.get(daemon.url.replace("https", "http")):
                pass
        assert daemon._tls.context.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_a_login_over_tls_gets_a_cookie_of_this_host_alone(tmp_path: Path) -> None:
    """`__Host-`, Secure, for every path; the link that is printed has the public name."""
    async with served(tmp_path) as (daemon, files):
        secret = read_key_file(daemon.paths.admin_token)
        assert secret is not None
        bearer = {"authorization": f"Bearer {secret.reveal()}"}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting(files))) as session:
            console = f"{daemon.url}/console/v1"
            async with session.post(f"{console}/auth/login", json={"token": secret.reveal()}) as answer:
                cookie = answer.headers["set-cookie"]
            assert cookie.startswith("__Host-palyra_session=")
            assert cookie.endswith("; Path=/; Secure; HttpOnly; SameSite=Strict")
            async with session.post(f"{console}/auth/login-codes", headers=bearer) as answer:
                assert (await answer.json())["login_url"].startswith("https://gateway.example/console#code=")


@pytest.mark.parametrize("name", ["localhost", None])
async def test_changed_files_serve_the_next_handshake(tmp_path: Path, name: str | None) -> None:
    """Whether it names a host or not; files that do not fit together leave the old ones in use."""
    async with served(tmp_path) as (daemon, files):
        port, first = daemon.server.port, der(files)
        loose = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        loose.check_hostname, loose.verify_mode = False, ssl.CERT_NONE
        assert await certificate_at(port, loose if name is None else trusting(files), name) == first
        certify(files.cert_file.parent, "palyra again")
        second = der(files)
        assert second != first
        assert await certificate_at(port, loose if name is None else trusting(files), name) == second
        files.key_file.write_text("nonsense")
        assert await certificate_at(port, loose if name is None else trusting(files), name) == second


async def test_clients_may_need_a_certificate(tmp_path: Path) -> None:
    """Without one of the authority nobody is served."""
    for directory in ("server", "client", "other"):
        (tmp_path / directory).mkdir()
    server, client, other = (certify(tmp_path / one, one) for one in ("server", "client", "other"))
    config = {
        "daemon": {
            "tls_cert_file": str(server.cert_file),
            "tls_key_file": str(server.key_file),
            "tls_client_ca_file": str(client.cert_file),
        }
    }
    async with palyra.Daemon(config, journal=":memory:") as daemon:
        for own, is_served in ((client, True), (other, False), (None, False)):
            connector = aiohttp.TCPConnector(ssl=trusting(server, own=own))
            async with aiohttp.ClientSession(connector=connector) as session:
                if is_served:
                    async with session.get(f"{daemon.url}/healthz") as answer:
                        assert answer.status == 200
                else:
                    with pytest.raises(aiohttp.ClientError):
                        async with session.get(f"{daemon.url}/healthz"):
                            pass


@pytest.mark.parametrize("fault", ["missing", "open", "foreign", "directory"])
async def test_files_that_cannot_be_used_stop_the_start(tmp_path: Path, fault: str) -> None:
    """A key that others can read is not used; the message names the file and nothing of what is in it."""
    files = certify(tmp_path, "palyra")
    if fault == "missing":
        files.key_file.unlink()
    elif fault == "open":
        files.key_file.chmod(0o644)
    elif fault == "foreign":
        (tmp_path / "other").mkdir()
        certify(tmp_path / "other", "other").key_file.replace(files.key_file)
    else:
        files.key_file.unlink()
        files.key_file.mkdir()
    with pytest.raises(ConfigInvalid) as caught:
        TlsContext(files, lambda message: None)
    assert str(files.key_file) in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("days", "is_told"), [(20, True), (22, False), (-1, True)])
async def test_a_certificate_that_ends_soon_is_told(tmp_path: Path, days: int, is_told: bool) -> None:
    """From three weeks before its end on, at each start, in the log."""
    ends = datetime.datetime.fromtimestamp(SystemClock().now_us() // 1_000_000, datetime.UTC)
    files = certify(tmp_path, "palyra", ends=ends + datetime.timedelta(days=days))
    log_file = tmp_path / "log"
    log = Log(level="info", log_format="json", file=log_file)
    tls = {"tls_cert_file": str(files.cert_file), "tls_key_file": str(files.key_file)}
    async with palyra.Daemon({"daemon": tls}, journal=":memory:", log=log):
        pass
    log.close()
    assert ("tls_expires_soon" in log_file.read_text()) == is_told
