"""Which addresses may be dialled, and what a configured base URL must look like.

Everything here is a question about text: no lookup, no socket. The guard in `providers/` asks the
same questions again for every address that is about to be dialled, because a name can change its mind between
the two. `ipaddress` only parses and compares; its `is_global` and `is_private` differ from release to release
and must never be asked. The tables follow the IANA special-purpose address registries (RFC 6890, updated).
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

AddressClass = Literal["metadata", "link_local", "special", "loopback", "private", "public"]

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

#: The first row that holds the address, or an IPv4 address inside it, decides; what no row holds is public.
_RANGES: tuple[tuple[AddressClass, str], ...] = (
    ("metadata", "169.254.169.254 169.254.170.2 169.254.170.23 100.100.100.200 168.63.129.16 192.0.0.192"),
    ("metadata", "fd00:ec2::254 fd20:ce::254"),
    ("link_local", "169.254.0.0/16 fe80::/10"),
    ("special", "0.0.0.0/8 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.51.100.0/24 203.0.113.0/24"),
    ("special", "224.0.0.0/4 240.0.0.0/4 192.31.196.0/24 192.52.193.0/24 192.175.48.0/24"),
    (
        "special",
        "::/128 ff00::/8 100::/64 64:ff9b:1::/48 2001::/23 2001:db8::/32 2002::/16 3fff::/20 5f00::/16",
    ),
    ("loopback", "127.0.0.0/8 ::1/128"),
    ("private", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 198.18.0.0/15 fc00::/7 fec0::/10"),
)
_TABLE = tuple((name, ipaddress.ip_network(text)) for name, row in _RANGES for text in row.split())

_METADATA_NAMES = frozenset(
    ("metadata.google.internal", "metadata.goog", "metadata.azure.internal", "instance-data")
)
#: Prefixes whose last 32 bits are an IPv4 address: mapped and compatible (RFC 4291), NAT64 (RFC 6052).
_EMBEDDING = tuple(ipaddress.IPv6Network(text) for text in ("::ffff:0:0/96", "::/96", "64:ff9b::/96"))
#: Middle 32 bits of an ISATAP address (RFC 5214), local and global form.
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
_NOT_EMBEDDING = (ipaddress.IPv6Address("::"), ipaddress.IPv6Address("::1"))

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?P<host>\[[^\[\]/?#@]*\]|[^\[\]:/?#@]+)"
    r"(?::(?P<port>[^/?#@]*))?"
    r"(?P<path>[^?#]*)"
)
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*/?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_URL_MAX_CHARS = 2_048


@functools.lru_cache(maxsize=1_024)  # asked about the same few peers again and again
def classify_address(ip: str) -> AddressClass:
    """Return the class of an address; no address, or one with a zone, gets a class never allowed."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return "special"
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return "link_local"
    faces = (address, *_embedded(address))
    for name, network in _TABLE:
        if any(face in network for face in faces):
            return name
    return "public"


def _embedded(address: IPAddress) -> Iterator[ipaddress.IPv4Address]:
    """Yield the IPv4 address that an IPv6 address stands for, if it stands for one."""
    if isinstance(address, ipaddress.IPv4Address) or address in _NOT_EMBEDDING:
        return
    middle = (int(address) >> 32) & 0xFFFF_FFFF
    if middle in _ISATAP or any(address in network for network in _EMBEDDING):
        yield ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)


def is_address_allowed(address_class: AddressClass, *, allow_private: bool) -> bool:
    """Return whether an address of this class may be dialled by a provider with this setting."""
    return address_class == "public" or (allow_private and address_class in ("loopback", "private"))


def canonical_host(host: str) -> str | None:
    """Return a URL's host in its one spelling, or None if it has none.

    Four decimals without leading zeros; IPv6 in brackets (returned without them); or a DNS name in its ASCII
    form, lower-cased, without its trailing dot, that no resolver could read as a number.
    """
    if host.startswith("[") and host.endswith("]"):
        return _canonical_ipv6(host[1:-1])
    if _is_ipv4(host):
        return host
    name = host.lower().removesuffix(".") if host.isascii() else ""
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return None
    return None if labels[-1].isdigit() or labels[-1].startswith("0x") else name


def _canonical_ipv6(text: str) -> str | None:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return None if address.scope_id is not None else str(address)


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def is_literal(host: str) -> bool:
    """Return whether a canonical host is an address rather than a name."""
    return ":" in host or _is_ipv4(host)


def is_metadata_name(host: str) -> bool:
    """Return whether a name is that of a cloud's metadata service; these are refused before any lookup."""
    return host.lower().removesuffix(".") in _METADATA_NAMES


def is_local_name(host: str) -> bool:
    """Return whether a name means this machine by definition (RFC 6761), so that nobody is asked for it."""
    name = host.lower().removesuffix(".")
    return name == "localhost" or name.endswith(".localhost")


class BaseUrl(msgspec.Struct, frozen=True, kw_only=True):
    """A base URL that may be used, in its one spelling."""

    #: Without a trailing slash and without a default port: `http://127.0.0.1:11434/v1`.
    url: str
    scheme: Literal["http", "https"]
    #: Canonical; an IPv6 address stands here without its brackets.
    host: str
    port: int
    #: Never empty, no trailing slash.
    path: str

    @property
    def origin(self) -> str:
        """`scheme://host:port` with the port written: what a credential is bound to."""
        return f"{self.scheme}://{_bracketed(self.host)}:{self.port}"


class UrlProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a base URL is refused. Never quotes more of it than the host."""

    code: Literal[
        "bad_url",
        "host_not_canonical",
        "private_address_refused",
        "metadata_address_refused",
        "insecure_scheme",
        "base_url_is_self",
    ]
    message: str


def _bad(message: str) -> UrlProblem:
    return UrlProblem(code="bad_url", message=message)


def validate_base_url_network_policy(
    url: str, *, allow_private: bool, own: Sequence[tuple[str, int]] = ()
) -> BaseUrl | UrlProblem:
    """Judge a configured base URL by its text alone; names are looked up, and judged again, when dialled.

    `own` are (host, port) of this daemon's listeners. An empty path becomes `/v1`.
    """
    parsed = _parse(url)
    if isinstance(parsed, UrlProblem):
        return parsed
    problem = (
        _judge_host(parsed.host, allow_private) or _judge_scheme(parsed, allow_private) or _judge_self(parsed, own)
    )
    return problem or parsed


def endpoint_url(url: str) -> BaseUrl | UrlProblem:
    """Judge the address of one place of a server, which has a path: https, or http on this very machine."""
    parsed = _parse(url)
    if isinstance(parsed, UrlProblem):
        return parsed
    if url.partition("://")[2].partition("/")[2] in ("", "/") or url.endswith("/"):
        return _bad("must name a place of its server, and not end in a slash")
    is_here = _class_of_host(parsed.host) == "loopback"
    if parsed.scheme == "http" and not is_here:
        return UrlProblem(code="insecure_scheme", message="must be https://; http:// is for this machine only")
    return _judge_host(parsed.host, allow_private=is_here) or parsed


def _parse(url: str) -> BaseUrl | UrlProblem:
    match = _URL.fullmatch(url) if len(url) <= _URL_MAX_CHARS else None
    if match is None or not _PATH.fullmatch(match["path"]):
        return _bad("must be an absolute URL with a host and a plain path, without user, query or fragment")
    scheme = match["scheme"].lower()
    if scheme not in _DEFAULT_PORTS:
        return _bad("must begin with https:// or http://")
    host = canonical_host(match["host"])
    if host is None:
        return UrlProblem(
            code="host_not_canonical",
            message="the host must be an ASCII name, four decimals, or bracketed IPv6 without a zone",
        )
    port = _DEFAULT_PORTS[scheme]
    if match["port"] is not None:
        if not _PORT.fullmatch(match["port"]) or int(match["port"]) > 65_535:
            return _bad("the port must be a number from 1 to 65535")
        port = int(match["port"])
    path = match["path"].removesuffix("/") or "/v1"
    authority = _bracketed(host) + ("" if port == _DEFAULT_PORTS[scheme] else f":{port}")
    return BaseUrl(
        url=f"{scheme}://{authority}{path}",
        scheme="https" if scheme == "https" else "http",
        host=host,
        port=port,
        path=path,
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _class_of_host(host: str) -> AddressClass | None:
    """Return the class of a canonical host as far as its text tells; None for a name to be looked up."""
    if is_literal(host):
        return classify_address(host)
    if is_metadata_name(host):
        return "metadata"
    return "loopback" if is_local_name(host) else None


def _judge_host(host: str, allow_private: bool) -> UrlProblem | None:
    address_class = _class_of_host(host)
    if address_class is None or is_address_allowed(address_class, allow_private=allow_private):
        return None
    if address_class == "metadata":
        return UrlProblem(
            code="metadata_address_refused",
            message=f"{host} is a cloud metadata service; no setting allows it",
        )
    way_out = (
        "add allow_private_base_url = true to this provider"
        if is_address_allowed(address_class, allow_private=True)
        else "no setting allows it"
    )
    return UrlProblem(
        code="private_address_refused",
        message=f"{host} is a {address_class.replace('_', '-')} address; {way_out}",
    )


def _judge_scheme(base: BaseUrl, allow_private: bool) -> UrlProblem | None:
    if base.scheme == "https":
        return None
    if not allow_private:
        return UrlProblem(
            code="insecure_scheme",
            message="http:// sends keys and texts in the clear; use https://, "
            "or for a private network add allow_private_base_url = true to this provider",
        )
    if _class_of_host(base.host) == "public":
        return UrlProblem(
            code="insecure_scheme", message=f"{base.host} is a public address; it is reached by https:// only"
        )
    return None


def _judge_self(base: BaseUrl, own: Sequence[tuple[str, int]]) -> UrlProblem | None:
    here = _class_of_host(base.host) == "loopback"
    for listener, port in own:
        if port == base.port and (listener == base.host or (here and _is_here(listener))):
            return UrlProblem(code="base_url_is_self", message=f"{base.host}:{port} is this daemon's own listener")
    return None


def _is_here(listener: str) -> bool:
    """Return whether a listener answers on loopback: by its address, its name, or because it takes all."""
    return listener in ("0.0.0.0", "::") or _class_of_host(listener) == "loopback"
