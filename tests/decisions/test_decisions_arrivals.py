"""What the headers of a request say."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.decisions.arrivals import (
    Attribution,
    host_refusal,
    is_plain_local,
    origin_refusal,
    own_origin_refusal,
    peer_of,
    read_attribution,
    session_of,
)
from palyra.decisions.keys import LOCAL_CALLER, Caller
from palyra.errors import Refusal

CALLER = Caller(principal_id="key:a", scopes=["v1:*"], agents=["*"])


def read(**headers: str) -> Attribution:
    """Return what these headers of ours say."""
    found = read_attribution(
        {f"x-palyra-{name.replace('_', '-')}": value for name, value in headers.items()}, CALLER
    )
    assert isinstance(found, Attribution)
    return found


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:7142",
        "localhost.",
        "palyra.localhost:80",
        "127.0.0.1",
        "127.0.0.1:7142",
        "10.1.2.3:1",
        "[::1]",
        "[::1]:7142",
        "gateway.lan",
        "gateway.lan:7142",
    ],
)
def test_our_names_pass(host: str) -> None:
    """Addresses, localhost and what lies below it, and configured names are ours, with any port."""
    assert host_refusal(host, {"gateway.lan"}) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil.example:7142",
        "notlocalhost",
        "127.0.0.1.evil.example",
        "127.0.0.1, localhost",
        "[::1",
        "::1",
        "[evil]",
        "localhost:x",
        "localhost:1:2",
        "",
        ":80",
        "localhost@evil.example",
        "0x7f.1",
    ],
)
def test_other_names_are_refused(host: str) -> None:
    """A host that is not ours, or no host at all, is refused."""
    refusal = host_refusal(host, {"gateway.lan"})
    assert refusal is not None
    assert refusal.code == "bad_host"


def test_a_missing_host_is_a_bad_request() -> None:
    """A request without Host is refused as such."""
    refusal = host_refusal(None, ())
    assert refusal is not None
    assert (refusal.code, refusal.http_status) == ("invalid_header", 400)


@given(st.text(max_size=40))
@settings(max_examples=100)
def test_no_host_header_breaks_the_check(host: str) -> None:
    """Every text gets an answer."""
    answer = host_refusal(host, ())
    assert answer is None or answer.code == "bad_host"


def test_a_web_page_may_not_call() -> None:
    """Any Origin is refused, `null` too; no Origin is fine."""
    for origin in ("https://evil.example", "null", "http://localhost:7142"):
        refusal = origin_refusal({"origin": origin})
        assert refusal is not None
        assert refusal.code == "origin_refused"
    assert origin_refusal({}) is None


def test_only_a_plain_local_request_is_local() -> None:
    """A request of another machine, of a page, or through a proxy is not a local program's."""
    assert is_plain_local({"host": "localhost"}, "loopback")
    assert not is_plain_local({}, "private")
    for name in ("origin", "forwarded", "x-forwarded-for", "x-real-ip", "via"):
        assert not is_plain_local({name: "x"}, "loopback")


def test_headers_of_ours_are_read() -> None:
    """Session, agent, tags, failover and time-out are taken; the session belongs to the caller."""
    found = read(session="work", agent="a1", tags="team=x, env = dev", failover="off", timeout_ms="1500", hop="2")
    assert found == Attribution(
        session_id="key:a/work",
        agent_id="a1",
        tags={"team": "x", "env": "dev"},
        failover=False,
        timeout_ms=1_500,
    )
    assert read() == Attribution()


def test_wishes_about_cost_and_loss_are_read() -> None:
    """What a request may cost at most, and whether what a model cannot take may be left out."""
    found = read(max_cost_usd="0.25", unsupported="drop")
    assert found == Attribution(max_cost_nanousd=250_000_000, unsupported="drop")


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("x-palyra-max-coins", "1", "unknown_palyra_header"),
        ("x-palyra-", "", "unknown_palyra_header"),
        ("x-palyra-session", "", "invalid_header"),
        ("x-palyra-session", "x" * 129, "invalid_header"),
        ("x-palyra-session", "caf\u00e9", "invalid_header"),
        ("x-palyra-agent", "a\tb", "invalid_header"),
        ("x-palyra-tags", "a", "invalid_header"),
        ("x-palyra-tags", "a=1,a=2", "invalid_header"),
        ("x-palyra-tags", ",".join(f"t{n}=1" for n in range(9)), "invalid_header"),
        ("x-palyra-failover", "maybe", "invalid_header"),
        ("x-palyra-timeout-ms", "0", "invalid_header"),
        ("x-palyra-timeout-ms", "1.5", "invalid_header"),
        ("x-palyra-timeout-ms", "9" * 10, "invalid_header"),
        ("x-palyra-timeout-ms", "\u0661", "invalid_header"),
        ("x-palyra-max-cost-usd", "-1", "invalid_header"),
        ("x-palyra-max-cost-usd", "cheap", "invalid_header"),
        ("x-palyra-hop", "x", "invalid_header"),
        ("x-palyra-hop", "3", "gateway_loop"),
        ("x-palyra-hop", "1, 2", "invalid_header"),
    ],
)
def test_what_cannot_be_followed_is_refused(name: str, value: str, code: str) -> None:
    """A header of ours that is unknown or cannot be read is refused by name, never skipped."""
    refusal = read_attribution({name: value}, CALLER)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.param) == (code, name)


def test_how_a_request_is_routed_may_be_said() -> None:
    """The class of its work by anybody; the mode only with a key that may, since it changes what things cost."""
    assert read(task_class="Background").task_class == "background"
    assert read(wait_approval="30").wait_approval_ms == 30_000
    chooser = msgspec.structs.replace(CALLER, scopes=["v1:*", "routing:mode"])
    found = read_attribution({"x-palyra-routing": "Dry-Run"}, chooser)
    assert isinstance(found, Attribution)
    assert found.routing_mode == "dry_run"
    refused = read_attribution({"x-palyra-routing": "enforced"}, CALLER)
    assert isinstance(refused, Refusal)
    assert refused.code == "missing_scope"


def test_an_agent_that_is_not_bound_is_refused() -> None:
    """A caller without agents names none; one with a list only those."""
    for caller, agent in ((LOCAL_CALLER, "a"), (Caller(principal_id="p", agents=["a"]), "b")):
        refusal = read_attribution({"x-palyra-agent": agent}, caller)
        assert isinstance(refusal, Refusal)
        assert refusal.code == "binding_violation"
    found = read_attribution({"x-palyra-agent": "a"}, Caller(principal_id="p", agents=["a"]))
    assert isinstance(found, Attribution)
    assert found.agent_id == "a"


def test_a_session_of_another_program_is_a_hint() -> None:
    """Sessions named by other programs count where they can be a name and ours is absent."""
    hints = {"session_id": "s2", "x-claude-code-session-id": "s1"}
    assert read_attribution(hints, CALLER) == Attribution(session_id="key:a/s1")
    assert read_attribution({**hints, "x-palyra-session": "mine"}, CALLER) == Attribution(session_id="key:a/mine")
    assert read_attribution({"session-id": "x" * 129}, CALLER) == Attribution()
    assert session_of(CALLER, "cach\u00e9") == "key:a/cach\u00e9"
    assert session_of(CALLER, "a\nb") == session_of(CALLER, "") == ""


@pytest.mark.parametrize("key", ["k", "with space", "~" * 255])
def test_a_request_may_be_named(key: str) -> None:
    """By 1 to 255 printable ASCII characters."""
    found = read_attribution({"idempotency-key": key}, CALLER)
    assert isinstance(found, Attribution)
    assert found.idempotency_key == key


@pytest.mark.parametrize("key", ["", "~" * 256, "naïve", "tab\t"])
def test_a_name_that_cannot_be_kept_is_refused(key: str) -> None:
    """Never skipped: the client relies on it."""
    refusal = read_attribution({"idempotency-key": key}, CALLER)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.param) == ("invalid_header", "idempotency-key")


BOUND = Caller(principal_id="user:ci", agents=["coder"], default_agent="coder", session="build")


def test_a_bound_key_binds_every_run() -> None:
    """Agent and session are the key's where the request names none; what others mean by a session is skipped."""
    assert read_attribution({"session_id": "other"}, BOUND) == Attribution(
        session_id="user:ci/build", agent_id="coder"
    )
    assert session_of(BOUND, "cache-key") == "user:ci/build"
    assert read_attribution({"x-palyra-session": "build", "x-palyra-agent": "coder"}, BOUND) == Attribution(
        session_id="user:ci/build", agent_id="coder"
    )


@pytest.mark.parametrize("name", ["x-palyra-agent", "x-palyra-session"])
def test_what_a_key_is_not_bound_to_is_refused(name: str) -> None:
    """Another agent or another session is a violation."""
    refusal = read_attribution({name: "other"}, BOUND)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.param) == ("binding_violation", name)


def test_a_named_page_may_call() -> None:
    """An origin that is configured passes, exactly as it is written; every other one is refused."""
    named = ["https://app.example"]
    assert origin_refusal({"origin": "https://app.example"}, named) is None
    for origin in ("https://app.example:8443", "http://app.example", "null", ""):
        assert origin_refusal({"origin": origin}, named) is not None


@pytest.mark.parametrize(
    ("origin", "is_ours"),
    [
        ("http://127.0.0.1:7142", True),
        ("HTTP://127.0.0.1:7142", True),
        ("http://127.0.0.1:7143", False),
        ("https://127.0.0.1:7142", False),
        ("http://localhost:7142", False),
        ("null", False),
        ("", False),
    ],
)
def test_the_console_answers_its_own_pages(origin: str, is_ours: bool) -> None:
    """Scheme, host and port are those that the browser came with."""
    headers = {"host": "127.0.0.1:7142", "origin": origin}
    assert (own_origin_refusal(headers, "http", is_needed=True) is None) == is_ours


def test_a_default_port_may_be_left_out() -> None:
    """https://console.example is port 443 of it."""
    headers = {"host": "console.example:443", "origin": "https://console.example"}
    assert own_origin_refusal(headers, "https", is_needed=True) is None
    assert own_origin_refusal({**headers, "host": "console.example:80"}, "https", is_needed=True) is not None


def test_an_origin_may_be_missing_where_no_cookie_is() -> None:
    """Programs send none."""
    assert own_origin_refusal({"host": "localhost"}, "http", is_needed=False) is None
    assert own_origin_refusal({"host": "localhost"}, "http", is_needed=True) is not None


@pytest.mark.parametrize(
    ("remote", "forwarded", "proto", "address", "is_secure"),
    [
        ("10.0.0.1", "8.8.8.8", "https", "8.8.8.8", True),
        ("10.0.0.1", "1.2.3.4, 8.8.8.8, 10.0.0.2", "http", "8.8.8.8", False),
        ("10.0.0.1", "", "", "10.0.0.1", False),
        ("10.0.0.1", "nonsense", "https", "nonsense", True),
        ("10.0.0.1", "10.0.0.9", "http, https", "10.0.0.9", True),
        ("8.8.4.4", "127.0.0.1", "https", "8.8.4.4", False),
    ],
)
def test_only_trusted_proxies_are_believed(
    remote: str, forwarded: str, proto: str, address: str, is_secure: bool
) -> None:
    """The peer is the nearest that no trusted proxy stands for; what a stranger forwards is nothing."""
    headers = {"x-forwarded-for": forwarded, "x-forwarded-proto": proto}
    assert peer_of(remote, headers, ["10.0.0.0/8"]) == (address, is_secure)
    assert peer_of(remote, headers, []) == (remote, False)
    assert peer_of(remote, headers, [], is_tls=True) == (remote, True)


@pytest.mark.parametrize(
    ("headers", "cache", "max_age_ms"),
    [
        ({}, "", None),
        ({"cache-control": "no-store"}, "off", None),
        ({"cache-control": "no-cache"}, "refresh", None),
        ({"cache-control": "No-Cache, no-store"}, "off", None),
        ({"cache-control": "max-age=5, only-if-cached"}, "", 5_000),
        ({"cache-control": "max-age=soon"}, "", None),
        ({"cache-control": "no-store", "x-palyra-cache": "read"}, "read", None),
        ({"x-palyra-cache": "refresh"}, "refresh", None),
        ({"x-palyra-cache": "off"}, "off", None),
    ],
)
def test_what_is_wanted_of_the_cache(headers: dict[str, str], cache: str, max_age_ms: int | None) -> None:
    """Our own header wins over the one that every cache obeys."""
    found = read_attribution(headers, CALLER)
    assert isinstance(found, Attribution)
    assert (found.cache, found.cache_max_age_ms) == (cache, max_age_ms)


def test_a_wish_that_is_not_known_is_refused() -> None:
    """It may have been meant as a limit."""
    refusal = read_attribution({"x-palyra-cache": "on"}, CALLER)
    assert isinstance(refusal, Refusal)
    assert refusal.message.endswith("must be off, read or refresh.")
