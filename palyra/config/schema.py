"""Whether one value is one that its key takes. Knows types, limits and shapes; nothing across keys."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from palyra.config.key import PATH_MAX_CHARS, Key
from palyra.config.patterns import PATTERN_RULE, is_linear
from palyra.config.problems import Path, nearest
from palyra.decisions.vault import VaultRef, read_vault_ref
from palyra.redaction import has_secret_shape
from palyra.wire.netguard import BaseUrl, canonical_host, endpoint_url, is_literal


class Fault(NamedTuple):
    """What is wrong with a value, and where inside it."""

    path: Path
    code: str
    message: str
    suggestion: str = ""


class Shape(NamedTuple):
    """A rule that a text follows beyond its length."""

    fits: Callable[[str], bool]
    sentence: str
    code: str = "out_of_range"


def _pattern(pattern: str) -> Callable[[str], bool]:
    match = re.compile(pattern).fullmatch
    return lambda text: match(text) is not None


def _is_listener(text: str) -> bool:
    if text == "localhost":
        return True
    host = canonical_host(f"[{text}]" if ":" in text else text)
    return host is not None and is_literal(host)


def _is_network(text: str) -> bool:
    import ipaddress  # hardly ever asked

    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _is_endpoint(text: str) -> bool:
    return isinstance(endpoint_url(text), BaseUrl)


def _is_origin(text: str, schemes: Sequence[str] = ("http", "https")) -> bool:
    """Return whether a text is scheme, host and port as a browser writes them."""
    scheme, separator, rest = text.partition("://")
    host, colon, port = rest.rpartition(":") if not rest.endswith("]") else (rest, "", "")
    if not colon:
        host, port = rest, "1"
    is_port = port.isascii() and port.isdigit() and 0 < int(port) <= 65_535
    return scheme in schemes and bool(separator) and is_port and canonical_host(host) in (host, host.strip("[]"))


def _is_vault_ref(text: str) -> bool:
    """Return whether a reference may stand in the configuration: what belongs to one agent is not read for all."""
    ref = read_vault_ref(text)
    return isinstance(ref, VaultRef) and str(ref) == text and ref.scope == "global" and not ref.is_managed


def is_zone(text: str) -> bool:
    """Return whether a text names a time zone."""
    if text == "local":
        return True
    import zoneinfo  # a quarter of the loader's own import time, and hardly ever asked

    try:
        zoneinfo.ZoneInfo(text)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return False
    return True


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "provider_id": Shape(
            _pattern(r"[a-z0-9][a-z0-9_.-]{0,63}"),
            "must be 1 to 64 of a-z 0-9 _ . - and start with a letter or digit",
        ),
        "profile_id": Shape(
            _pattern(r"[a-z0-9][a-z0-9._-]{0,63}"),
            "must be 1 to 64 of a-z 0-9 . _ - and start with a letter or digit",
        ),
        "model_id": Shape(
            _pattern(r"[!-)+-~]{1,256}"), "must be 1 to 256 printable ASCII characters without space and *"
        ),
        "model_ref": Shape(_pattern(r"[!-)+-~]{1,512}"), "must be the name of a model, without space and *"),
        "line": Shape(str.isprintable, "must be printable"),
        "header_value": Shape(
            _pattern(r"[!-~](?:[ -~]{0,1022}[!-~])?"),
            "must be 1 to 1024 printable ASCII characters",
            "bad_header",
        ),
        "env_name": Shape(_pattern(r"[A-Za-z_][A-Za-z0-9_]{0,127}"), "must be the name of an environment variable"),
        "keyword": Shape(
            lambda text: 1 <= len(text) <= 64 and text.removesuffix("*").isalnum(),
            "must be one word of at most 64 letters and digits, or the begin of one with * behind it",
        ),
        "host_name": Shape(
            lambda text: canonical_host(text) == text,
            "must be a host name in lower-case ASCII, without scheme and port",
        ),
        "linear_pattern": Shape(is_linear, PATTERN_RULE),
        "vault_ref": Shape(_is_vault_ref, "must be global/<key>, such as global/openai", "invalid_vault_ref"),
        "endpoint": Shape(_is_endpoint, "must be https://HOST/PLACE, or http:// on this machine, without a query"),
        "endpoint_or_none": Shape(
            lambda text: text == "" or _is_endpoint(text),
            "must be https://HOST/PLACE, or http:// on this machine, without a query; or empty",
        ),
        "scope": Shape(_pattern(r"[!#-\[\]-~]{1,256}"), "must be ASCII without blanks and quotes"),
        "timezone": Shape(is_zone, "must be local or an IANA name such as Europe/Prague"),
        "zone": Shape(lambda text: text != "local" and is_zone(text), "must be an IANA name such as Europe/Prague"),
        "listener": Shape(_is_listener, "must be an address, or localhost"),
        "network": Shape(_is_network, "must be an address or a network such as 10.0.0.0/8"),
        "origin": Shape(_is_origin, "must be http(s)://HOST or http(s)://HOST:PORT in lower case, no more"),
        "public_url": Shape(
            lambda text: _is_origin(text, ("https",)), "must be https://HOST or https://HOST:PORT, and nothing else"
        ),
    }
)

_DESCRIPTIONS = {
    "bool": "must be true or false",
    "int": "must be a whole number",
    "text": "must be a text",
    "texts": "must be a list of texts",
    "path": "must be a text: a path",
    "paths": "must be a list of paths",
    "map": "must be a table of texts",
    "rules": "must be an array of tables",
}


def check(key: Key, value: Any) -> Iterator[Fault]:
    """Yield what is wrong with a value as TOML, a variable or a flag gave it; the value is never in the message."""
    if key.type == "bool":
        if type(value) is not bool:
            yield _wrong_type(key)
    elif key.type == "int":
        if type(value) is not int:
            yield _wrong_type(key)
        elif not _is_within(key, value):
            zero = ", or 0" if key.or_zero else ""
            yield Fault((), "out_of_range", f"must be {key.low:,} to {key.high:,}{zero}")
    elif key.type in ("text", "path"):
        yield from _check_text(key, value, ())
    else:
        yield from _check_collection(key, value)


def _wrong_type(key: Key, path: Path = ()) -> Fault:
    return Fault(path, "wrong_type", "must be a text" if path else _DESCRIPTIONS[key.type])


def _is_within(key: Key, count: int) -> bool:
    if key.or_zero and count == 0:
        return True
    return (key.low is None or count >= key.low) and (key.high is None or count <= key.high)


def _check_collection(key: Key, value: Any) -> Iterator[Fault]:
    """Check a list or a map as a whole and then each of its items."""
    if type(value) is not (dict if key.type == "map" else list):
        yield _wrong_type(key)
        return
    if not _is_within(key, len(value)):
        bounds = f"at most {key.high:,}" if key.low is None else f"{key.low:,} to {key.high:,}"
        yield Fault((), "out_of_range", f"must have {bounds} items")
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, item in items:
        if key.type != "rules":
            yield from _check_text(key, item, (name,))
        elif type(item) is not dict:
            yield Fault((name,), "wrong_type", "must be a table")


def _check_text(key: Key, value: Any, path: Path) -> Iterator[Fault]:
    """Check a text, or a text inside a list or a map (`path` is then its place there)."""
    if type(value) is not str:
        yield _wrong_type(key, path)
    elif key.type in ("path", "paths"):
        yield from _check_path(key, value, path)
    elif key.choices:
        yield from _check_choice(key, value, path)
    elif not path and not _is_within(key, len(value)):
        yield Fault(path, "out_of_range", f"must have {key.low:,} to {key.high:,} characters")
    elif key.shape and not SHAPES[key.shape].fits(value):
        yield Fault(path, SHAPES[key.shape].code, SHAPES[key.shape].sentence)


def _check_choice(key: Key, value: str, path: Path) -> Iterator[Fault]:
    if value not in key.choices and value not in key.spellings:
        near = nearest(value.lower(), (*key.choices, *key.spellings))
        suggestion = f'did you mean "{near}"?' if near else ""
        yield Fault(path, "bad_enum", f"must be one of {', '.join(key.choices)}", suggestion)


def _check_path(key: Key, value: str, path: Path) -> Iterator[Fault]:
    if value == "" and key.default == "":
        return
    fault = path_fault(value)
    if fault:
        yield Fault(path, "bad_path", fault)
    elif not value.startswith(("/", "~/")):
        yield Fault(path, "bad_path", "must be absolute, or below the home directory with ~/")


def path_fault(text: str) -> str:
    """Return what is wrong with any path, "" if nothing is."""
    if not text or "\0" in text or len(text) > PATH_MAX_CHARS:
        return f"must have 1 to {PATH_MAX_CHARS:,} characters, none of them NUL"
    if any("\ud800" <= char <= "\udfff" for char in text):  # what stands for bytes that are not
        return "must be UTF-8"
    return "must not hold .." if ".." in text.split("/") else ""


def normal(key: Key, value: Any, home: str) -> Any:
    """Return a checked value in its one spelling: aliases of choices resolved, `~/` filled in."""
    if key.type == "paths":
        return [_expanded(path, home) for path in value]
    if key.type == "path":
        return _expanded(value, home)
    if not key.spellings:
        return value
    if key.type == "map":
        return {name: key.spellings.get(item, item) for name, item in value.items()}
    return key.spellings.get(value, value)


def _expanded(path: str, home: str) -> str:
    return f"{home}{path[1:]}" if path.startswith("~/") else path


_DECIMAL = re.compile(r"-?[0-9]{1,30}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def decode(key: Key, text: str) -> Any:
    """Return the value that a variable's text means; what means none stays text, and the check refuses it."""
    if key.type == "bool":
        return _BOOLEANS.get(text, text)
    if key.type == "int":
        return int(text) if _DECIMAL.fullmatch(text) else text
    if key.type not in ("texts", "paths"):
        return text
    if not text.startswith("["):
        return [item for part in text.split(",") if (item := part.strip())]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def find_secrets(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the places inside a value (its tables' keys included) that hold something of a secret's shape."""
    if isinstance(value, str):
        if has_secret_shape(value):
            yield path
    elif isinstance(value, dict):
        for name, item in value.items():
            if has_secret_shape(name):
                yield (*path, name)
            yield from find_secrets(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from find_secrets(item, (*path, index))
