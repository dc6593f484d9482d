"""What the headers of a request say: whether its Host and Origin are ours, whom it is counted for, its own limits.

Header names come in lower case. A header of ours that is not known is refused, never skipped: it may have been
meant as a limit.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from palyra.decisions.keys import Caller, has_scope, is_within, scope_refusal
from palyra.decisions.overrides import BadAmount, read_usd
from palyra.errors import Refusal
from palyra.events.smart_routing import MODES, TASK_CLASSES, RoutingMode

NAME_MAX_CHARS = 128
IDEMPOTENCY_KEY_MAX_CHARS = 255
TAGS_MAX_COUNT = 8
#: The longest time for which a connection is kept while somebody decides.
WAIT_APPROVAL_MAX_S = 300
#: A request that passed this many gateways runs in a circle.
HOPS_MAX_COUNT = 3

_PREFIX = "x-palyra-"
_KNOWN = frozenset(
    _PREFIX + name
    for name in (
        "session agent tags failover timeout-ms hop cache unsupported max-cost-usd routing task-class wait-approval"
    ).split()
)
#: Where other programs put the name of a session.
_SESSION_HINTS = ("x-claude-code-session-id", "session_id", "session-id")
#: A web page or a proxy speaks for somebody else.
_NOT_PLAIN = ("origin", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
_DECIMAL_MAX_CHARS = 9


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a request is counted for, and what it asks of this run alone."""

    #: `<principal>/<name>`, so that no caller enters another's session; "" for none.
    session_id: str = ""
    agent_id: str = ""
    tags: dict[str, str] = {}
    timeout_ms: int | None = None
    max_cost_nanousd: int | None = None
    #: How long it waits for somebody to let it pass a limit.
    wait_approval_ms: int = 0
    failover: bool = True
    #: The routing mode and the task class of this request alone; None and "" where it says nothing.
    routing_mode: RoutingMode | None = None
    task_class: str = ""
    #: The key holds a pinned model against routing.
    may_pin: bool = False
    #: What the client wants of the response cache: off, read, refresh (write only); "" where it says nothing.
    cache: str = ""
    #: The oldest answer that it takes from there.
    cache_max_age_ms: int | None = None
    #: What becomes of parameters that a model's provider cannot take: by the table, all refused, all dropped.
    unsupported: Literal["rule", "refuse", "drop"] = "rule"
    #: What the client calls this very request, so that it can send it again; "" for nothing.
    idempotency_key: str = ""


def host_refusal(host: str | None, extra_hosts: Collection[str]) -> Refusal | None:
    """Return why a Host header is not ours, or None. A web page that renames itself to reach us is told by it."""
    if host is None:
        return Refusal(code="invalid_header", message="The Host header is missing.", param="host")
    name = _host_name(host.lower())
    if name is not None and (name == "localhost" or name.endswith(".localhost") or name in extra_hosts):
        return None
    if name is not None and _is_address(name):
        return None
    message = "This Host is not served here; auth.extra_hosts can name it."
    return Refusal(code="bad_host", message=message, param="host")


def origin_refusal(headers: Mapping[str, str], allowed_origins: Collection[str] = ()) -> Refusal | None:
    """Return why a request that a web page made is refused, or None for one that no page or a named one made."""
    origin = headers.get("origin")
    if origin is None or origin in allowed_origins:
        return None
    message = "Web pages may not call this gateway; daemon.cors_origins can name one that may."
    return Refusal(code="origin_refused", message=message, param="origin")


def own_origin_refusal(headers: Mapping[str, str], scheme: str, *, is_needed: bool) -> Refusal | None:
    """Return why a request to the console is refused: only its own pages may send one, by scheme, host and port.

    Cookies know no ports, so this is the defence against other servers on this machine. `is_needed`: a request
    that says nothing of its origin is refused too.
    """
    origin = headers.get("origin")
    if origin is None and not is_needed:
        return None
    if origin is not None and _plain_origin(origin) == _plain_origin(f"{scheme}://{headers.get('host', '')}"):
        return None
    return Refusal(code="origin_refused", message="Only the console's own pages may do this.", param="origin")


_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def _plain_origin(origin: str) -> str:
    scheme, _, host = origin.lower().partition("://")
    return f"{scheme}://{host.removesuffix(_DEFAULT_PORTS.get(scheme, ' '))}"


class Peer(NamedTuple):
    """Where a request comes from, as far as that can be believed."""

    address: str
    #: The way to us is encrypted, by our own TLS or by that of a proxy that we trust.
    is_secure: bool


def peer_of(
    remote: str, headers: Mapping[str, str], trusted_proxies: Sequence[str], *, is_tls: bool = False
) -> Peer:
    """Return the peer of a request: whoever connected, or whom a trusted proxy names (the nearest not trusted)."""
    if not trusted_proxies or not is_within(remote, trusted_proxies):
        return Peer(remote, is_tls)
    hops = [hop.strip() for hop in headers.get("x-forwarded-for", "").split(",") if hop.strip()]
    address = remote
    while hops and is_within(address, trusted_proxies):
        address = hops.pop()
    scheme = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
    return Peer(address, is_tls or scheme == "https")


def is_plain_local(headers: Mapping[str, str], address_class: str) -> bool:
    """Return whether a request comes straight from a program on this machine."""
    return address_class == "loopback" and not any(name in headers for name in _NOT_PLAIN)


def read_attribution(headers: Mapping[str, str], caller: Caller) -> Attribution | Refusal:
    """Return what the headers of ours say, or the refusal of one that cannot be followed."""
    ours = [name for name in headers if name.startswith(_PREFIX)]
    for name in ours:
        if name not in _KNOWN:
            message = f"{name[:NAME_MAX_CHARS]} is no header of this release, and is not skipped."
            return Refusal(code="unknown_palyra_header", message=message, param=name[:NAME_MAX_CHARS])
    hint = next((headers[name] for name in _SESSION_HINTS if name in headers), "")
    found = Attribution(
        session_id=session_of(caller, hint),
        agent_id=caller.default_agent,
        may_pin=has_scope(caller.scopes, "routing:pin"),
    )
    repeatable = headers.get("idempotency-key")
    if repeatable is not None:
        if not _is_text(repeatable, IDEMPOTENCY_KEY_MAX_CHARS):
            message = f"idempotency-key must be 1 to {IDEMPOTENCY_KEY_MAX_CHARS} printable ASCII characters."
            return Refusal(code="invalid_header", message=message, param="idempotency-key")
        found = msgspec.structs.replace(found, idempotency_key=repeatable)
    if "cache-control" in headers:
        found = _with_cache_control(found, headers["cache-control"])
    for name in ours:
        read = _read(found, name, headers[name].strip(), caller)
        if isinstance(read, Refusal):
            return read
        found = read
    return found


def session_of(caller: Caller, hint: str) -> str:
    """Return the session of a run that names none: the key's, else what a hint not meant for us stands for.

    "" where the key has none and the hint cannot be a name.
    """
    if caller.session:
        return f"{caller.principal_id}/{caller.session}"
    return f"{caller.principal_id}/{hint}" if 1 <= len(hint) <= NAME_MAX_CHARS and hint.isprintable() else ""


def _read(found: Attribution, name: str, value: str, caller: Caller) -> Attribution | Refusal:
    match name.removeprefix(_PREFIX):
        case "session" if caller.session and value != caller.session:
            message = "This key's runs are all in one session, and this is another."
            return Refusal(code="binding_violation", message=message, param=name)
        case "session" if _is_name(value):
            return msgspec.structs.replace(found, session_id=f"{caller.principal_id}/{value}")
        case "agent" if _is_name(value):
            if value in caller.agents or "*" in caller.agents:
                return msgspec.structs.replace(found, agent_id=value)
            return Refusal(code="binding_violation", message="You may not act as this agent.", param=name)
        case "tags" if (tags := _read_tags(value)) is not None:
            return msgspec.structs.replace(found, tags=tags)
        case "routing" if (mode := value.lower().replace("-", "_")) in MODES:
            # Neither more nor less of it is free: it changes what a request costs.
            refusal = scope_refusal(caller.scopes, "routing:mode")
            return refusal or msgspec.structs.replace(found, routing_mode=mode)
        case "task-class" if value.lower() in TASK_CLASSES:
            return msgspec.structs.replace(found, task_class=value.lower())
        case "failover" if value == "off":
            return msgspec.structs.replace(found, failover=False)
        case "cache" if value in ("off", "read", "refresh"):
            return msgspec.structs.replace(found, cache=value)
        case "unsupported" if value in ("refuse", "drop"):
            return msgspec.structs.replace(found, unsupported=value)
        case "timeout-ms" if _is_decimal(value) and int(value) > 0:
            return msgspec.structs.replace(found, timeout_ms=int(value))
        case "max-cost-usd" if (max_cost := _read_usd(value)) is not None:
            return msgspec.structs.replace(found, max_cost_nanousd=max_cost)
        case "wait-approval" if _is_decimal(value) and 1 <= int(value) <= WAIT_APPROVAL_MAX_S:
            return msgspec.structs.replace(found, wait_approval_ms=int(value) * 1_000)
        case "hop" if _is_decimal(value):
            if int(value) < HOPS_MAX_COUNT:
                return found
            message = f"This request went through {int(value)} gateways; the configuration sends it in a circle."
            return Refusal(code="gateway_loop", message=message, param=name)
    return Refusal(code="invalid_header", message=f"{name} must be {_WANTED[name]}.", param=name)


_WANTED = {
    "x-palyra-session": f"1 to {NAME_MAX_CHARS} printable ASCII characters",
    "x-palyra-agent": f"1 to {NAME_MAX_CHARS} printable ASCII characters",
    "x-palyra-tags": f"1 to {TAGS_MAX_COUNT} different name=value, separated by commas",
    "x-palyra-cache": "off, read or refresh",
    "x-palyra-failover": "off",
    "x-palyra-routing": "suggest, dry_run or enforced",
    "x-palyra-task-class": "interactive, background or auxiliary",
    "x-palyra-unsupported": "refuse or drop",
    "x-palyra-max-cost-usd": "an amount of USD such as 0.05",
    "x-palyra-wait-approval": f"1 to {WAIT_APPROVAL_MAX_S} seconds",
    "x-palyra-timeout-ms": "a whole number of milliseconds above 0",
    "x-palyra-hop": "a whole number",
}


def _with_cache_control(found: Attribution, value: str) -> Attribution:
    """Return what a header says that every cache obeys (RFC 9111, 5.2.1); what is not for us in it is skipped."""
    words = [word.strip().lower() for word in value.split(",")]
    cache = "off" if "no-store" in words else "refresh" if "no-cache" in words else found.cache
    ages = [word.removeprefix("max-age=") for word in words if word.startswith("max-age=")]
    max_age_ms = int(ages[0]) * 1_000 if ages and _is_decimal(ages[0]) else None
    return msgspec.structs.replace(found, cache=cache, cache_max_age_ms=max_age_ms)


def _read_tags(value: str) -> dict[str, str] | None:
    pairs = [pair.partition("=") for pair in value.split(",")]
    tags = {name.strip(): content.strip() for name, _, content in pairs}
    if len(tags) != len(pairs) or len(tags) > TAGS_MAX_COUNT:
        return None
    return tags if all(_is_name(name) and _is_name(content) for name, content in tags.items()) else None


def _read_usd(value: str) -> int | None:
    try:
        return read_usd(value)
    except BadAmount:
        return None


def _is_name(text: str) -> bool:
    return _is_text(text, NAME_MAX_CHARS)


def _is_text(text: str, max_chars: int) -> bool:
    return 1 <= len(text) <= max_chars and text.isascii() and text.isprintable()


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DECIMAL_MAX_CHARS


def _host_name(host: str) -> str | None:
    """Return the host of a Host header without its port and brackets, or None if it is none."""
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name = host
    elif port and not port.isdigit():
        return None
    if name.startswith("["):
        return name[1:-1] if name.endswith("]") else None
    return None if ":" in name else name.removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
