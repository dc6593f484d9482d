"""The address table and the rules for a base URL: every row, every disguise, every odd spelling."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.wire.netguard import (
    AddressClass,
    BaseUrl,
    UrlProblem,
    canonical_host,
    classify_address,
    is_address_allowed,
    is_literal,
    is_local_name,
    is_metadata_name,
    validate_base_url_network_policy,
)

#: class -> first and last addresses of its IPv4 rows, and neighbours worth pinning
IPV4: dict[AddressClass, str] = {
    "metadata": ("169.254.169.254 169.254.170.2 169.254.170.23 100.100.100.200 168.63.129.16 192.0.0.192"),
    "link_local": "169.254.0.0 169.254.169.253 169.254.255.255",
    "special": (
        "0.0.0.0 0.255.255.255 192.0.0.0 192.0.0.9 192.0.0.255 192.0.2.1 192.88.99.1 198.51.100.7"
        " 203.0.113.255 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255"
        " 192.31.196.1 192.52.193.1 192.175.48.1"
    ),
    "loopback": "127.0.0.0 127.0.0.1 127.255.255.255",
    "private": (
        "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255 100.64.0.0"
        " 100.127.255.255 198.18.0.0 198.19.255.255"
    ),
    "public": (
        "1.1.1.1 9.255.255.255 11.0.0.0 126.255.255.255 128.0.0.0 172.15.255.255 172.32.0.0 192.167.255.255"
        " 192.169.0.0 100.63.255.255 100.128.0.0 198.17.255.255 198.20.0.0 223.255.255.255 168.63.129.17"
    ),
}
IPV6: dict[AddressClass, str] = {
    "metadata": "fd00:ec2::254 fd20:ce::254",
    "link_local": "fe80:: fe80::1 febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff fe80::1%eth0 2606:4700::1%eth0",
    "special": (
        ":: ff02::1 ff00:: ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 100::1 64:ff9b:1::7f00:1 2001::1"
        " 2001:1ff::1 2001:db8::1 2002:7f00:1:: 2002:808:808::1 3fff::1 3fff:fff:: 5f00::1"
    ),
    "loopback": "::1",
    "private": "fc00::1 fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fec0::1 feff::1",
    "public": "2606:4700:4700::1111 2a00:1450::1 2001:200::1 2001:db9::1 64:ff9c::1 4000::",
}
CASES = [(ip, name) for table in (IPV4, IPV6) for name, row in table.items() for ip in row.split()]
ALLOWED = {"public": (True, True), "loopback": (False, True), "private": (False, True)}


@pytest.mark.parametrize(("ip", "expected"), CASES)
def test_every_row_of_the_table(ip: str, expected: AddressClass) -> None:
    """Each row of the address table gives its class, its edges belong to it and its neighbours do not."""
    assert classify_address(ip) == expected


def disguises(ip: str) -> list[str]:
    low = int(ipaddress.IPv4Address(ip))
    bases = ["::ffff:0:0", "::", "64:ff9b::", "2606:4700::5efe:0:0", "2606:4700::200:5efe:0:0"]
    return [str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(base)) | low)) for base in bases]


@pytest.mark.parametrize(("name", "row"), IPV4.items())
def test_an_ipv4_address_inside_an_ipv6_address_is_judged(name: AddressClass, row: str) -> None:
    """Mapped, compatible, NAT64 and ISATAP forms have the class of the address they carry."""
    for ip in row.split():
        for disguise in disguises(ip):
            if disguise not in ("::", "::1"):
                assert classify_address(disguise) == name, disguise


def test_isatap_below_a_refused_prefix_keeps_the_refusal() -> None:
    """A public address inside a link-local ISATAP address does not make it public."""
    assert classify_address("fe80::5efe:808:808") == "link_local"
    assert classify_address("fd00::5efe:a9fe:a9fe") == "metadata"


@pytest.mark.parametrize("text", ["", "example.com", "127.1", "2130706433", "0177.0.0.1", "127.0.0.1:80", "[::1]"])
def test_what_is_no_address_is_never_allowed(text: str) -> None:
    """A text that is not an address fails closed."""
    assert classify_address(text) == "special"


@pytest.mark.parametrize("name", [*IPV4])
def test_what_a_class_allows(name: AddressClass) -> None:
    """Public is always allowed, loopback and private by the setting, all else never."""
    closed, opened = ALLOWED.get(name, (False, False))
    assert is_address_allowed(name, allow_private=False) is closed
    assert is_address_allowed(name, allow_private=True) is opened


@given(st.ip_addresses())
@settings(max_examples=300)
def test_any_address_has_a_class_and_only_three_can_be_allowed(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """The table is total, and a setting only ever opens loopback and private."""
    name = classify_address(str(ip))
    assert is_address_allowed(name, allow_private=False) == (name == "public")
    assert is_address_allowed(name, allow_private=True) == (name in ALLOWED)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("api.openai.com", "api.openai.com"),
        ("API.OpenAI.com.", "api.openai.com"),
        ("localhost", "localhost"),
        ("my_ollama", "my_ollama"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("1.2.3.4", "1.2.3.4"),
        ("4chan.example", "4chan.example"),
        ("[::1]", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("[2606:4700::1111]", "2606:4700::1111"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_hosts_have_one_spelling(written: str, canonical: str) -> None:
    """A host that has a canonical spelling gets it, and that spelling is its own canonical one."""
    assert canonical_host(written) == canonical
    assert canonical_host(f"[{canonical}]" if ":" in canonical else canonical) == canonical


ODD_HOSTS = [
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "127.1",
    "127.0.1",
    "127.000.0.1",
    "127.0.0.1.",
    "127.0.0.256",
    "1.2.3.4.5",
    "example.0x7f",
    "example.1",
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "[::1",
    "::1",
    "[1.2.3.4]",
    "[]",
    "%31%32%37.0.0.1",
    "exa%6dple.com",
    "１２７.０.０.１",  # full-width digits
    "①②⑦.⓪.⓪.①",
    "bücher.example",
    "-a.example",
    "a-.example",
    "a..example",
    ".example",
    "example..",
    "a b.example",
    "a\\b.example",
    "example.com\n",
    "a" * 64 + ".example",
    ".".join(["a" * 49] * 6),
    "",
    ".",
]


@pytest.mark.parametrize("host", ODD_HOSTS)
def test_odd_spellings_of_a_host_are_refused(host: str) -> None:
    """Numbers in disguise, zones, escapes, non-ASCII and malformed names have no canonical spelling."""
    assert canonical_host(host) is None


def test_names_that_need_no_lookup() -> None:
    """Local names and metadata names are known by their text, whatever their case or trailing dot."""
    assert is_local_name("LocalHost.")
    assert is_local_name("a.localhost")
    assert not is_local_name("localhost.example")
    assert not is_local_name("notlocalhost")
    for name in ("metadata.google.internal", "Metadata.Goog.", "metadata.azure.internal", "instance-data"):
        assert is_metadata_name(name)
    assert not is_metadata_name("metadata.example")
    assert is_literal("::1")
    assert is_literal("127.0.0.1")
    assert not is_literal("localhost")


def accepted(url: str, **policy: bool) -> BaseUrl:
    verdict = validate_base_url_network_policy(url, allow_private=policy.get("allow_private", False))
    assert isinstance(verdict, BaseUrl), verdict
    return verdict


def problem(url: str, *, allow_private: bool = False, own: list[tuple[str, int]] | None = None) -> str:
    verdict = validate_base_url_network_policy(url, allow_private=allow_private, own=own or [])
    assert isinstance(verdict, UrlProblem), verdict
    assert verdict.message
    return verdict.code


@pytest.mark.parametrize(
    ("written", "url", "host", "port", "path"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1", "api.openai.com", 443, "/v1"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1", "api.openai.com", 443, "/v1"),
        ("https://api.openai.com", "https://api.openai.com/v1", "api.openai.com", 443, "/v1"),
        ("HTTPS://API.OPENAI.COM:443/", "https://api.openai.com/v1", "api.openai.com", 443, "/v1"),
        (
            "https://h.example:8443/openai/v1",
            "https://h.example:8443/openai/v1",
            "h.example",
            8443,
            "/openai/v1",
        ),
        ("https://[2606:4700::11]:444/v2", "https://[2606:4700::11]:444/v2", "2606:4700::11", 444, "/v2"),
        ("https://1.1.1.1/a%2Fb", "https://1.1.1.1/a%2Fb", "1.1.1.1", 443, "/a%2Fb"),
    ],
)
def test_a_good_url_gets_its_one_spelling(written: str, url: str, host: str, port: int, path: str) -> None:
    """Case, default port, empty path and trailing slash are normalised."""
    base = accepted(written)
    assert (base.url, base.scheme, base.host, base.port, base.path) == (url, "https", host, port, path)
    assert accepted(base.url) == base


def test_origin_writes_the_port() -> None:
    """The origin a credential is bound to always names its port, and brackets IPv6."""
    assert accepted("https://api.openai.com/v1").origin == "https://api.openai.com:443"
    assert accepted("http://[::1]:11434", allow_private=True).origin == "http://[::1]:11434"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.openai.com/v1",
        "//api.openai.com/v1",
        "https:///v1",
        "https://:443/v1",
        "https://::1/v1",
        "https://user@api.example/v1",
        "https://user:secret@api.example/v1",
        "https://api.example/v1?key=1",
        "https://api.example/v1?",
        "https://api.example/v1#x",
        "https://api.example/../v1",
        "https://api.example/v1/.",
        "https://api.example//v1",
        "https://api.example/v 1",
        "https://api.example/v1\n",
        "https://api.example/v\\1",
        "https://api.example/vé",
        "https://api.example:/v1",
        "https://api.example:0/v1",
        "https://api.example:65536/v1",
        "https://api.example:0443/v1",
        "https://api.example:x/v1",
        "https://api.example:４４３/v1",
        "ftp://api.example/v1",
        "file:///etc/passwd",
        "https://api.example/" + "a" * 2_048,
    ],
)
def test_malformed_urls(url: str) -> None:
    """A URL that is not absolute, plain and of a known scheme is `bad_url`."""
    assert problem(url) == "bad_url"


@pytest.mark.parametrize("host", [host for host in ODD_HOSTS if host not in ("", "::1", "[::1")])
def test_odd_hosts_in_a_url(host: str) -> None:
    """Every odd literal is refused by its shape, also where private addresses are allowed."""
    assert problem(f"https://{host}/v1", allow_private=True) == "host_not_canonical"


@pytest.mark.parametrize(("ip", "name"), CASES)
def test_literal_hosts_by_class(ip: str, name: AddressClass) -> None:
    """A literal address is accepted exactly when its class is, and metadata has a code of its own."""
    if "%" in ip:
        return
    url = f"https://[{ip}]/v1" if ":" in ip else f"https://{ip}/v1"
    refusal = "metadata_address_refused" if name == "metadata" else "private_address_refused"
    for allow_private, allowed in zip((False, True), ALLOWED.get(name, (False, False)), strict=True):
        if allowed:
            assert accepted(url, allow_private=allow_private)
        else:
            assert problem(url, allow_private=allow_private) == refusal


def test_names_by_class() -> None:
    """Metadata names are never allowed, local names need the setting, other names wait for their lookup."""
    assert problem("https://metadata.google.internal/", allow_private=True) == "metadata_address_refused"
    assert problem("https://localhost:8000") == "private_address_refused"
    assert accepted("http://a.localhost:8000", allow_private=True).host == "a.localhost"
    assert accepted("http://ollama.lan:11434", allow_private=True).port == 11_434


def test_http_needs_the_setting_and_a_private_address() -> None:
    """Plain http is refused without the setting, and to a public address always."""
    assert problem("http://api.example/v1") == "insecure_scheme"
    assert problem("http://127.0.0.1:8080/v1") == "private_address_refused"
    assert problem("http://1.1.1.1/v1", allow_private=True) == "insecure_scheme"
    assert accepted("http://10.0.0.5:8080", allow_private=True).url == "http://10.0.0.5:8080/v1"
    assert accepted("http://10.0.0.5:80", allow_private=True).url == "http://10.0.0.5/v1"


def test_the_first_fault_in_order_is_named() -> None:
    """Host shape comes before port, port before class, class before scheme, scheme before self."""
    assert problem("ftp://127.1:0/") == "bad_url"
    assert problem("https://127.1:0/") == "host_not_canonical"
    assert problem("http://127.0.0.1:0/") == "bad_url"
    assert problem("http://127.0.0.1:7180/", own=[("127.0.0.1", 7180)]) == "private_address_refused"


@pytest.mark.parametrize(
    ("host", "listener"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("[::1]", "0.0.0.0"),
        ("127.0.0.1", "::"),
        ("127.0.0.1", "localhost"),
        ("gateway.lan", "gateway.lan"),
        ("10.0.0.4", "10.0.0.4"),
    ],
)
def test_a_daemon_is_not_its_own_provider(host: str, listener: str) -> None:
    """A base URL that reaches one of our own listeners is refused, whatever its spelling."""
    url = f"http://{host}:7180/v1"
    assert problem(url, allow_private=True, own=[("127.0.0.1", 1), (listener, 7180)]) == "base_url_is_self"


def test_other_listeners_are_not_this_daemon() -> None:
    """Another port, and another machine on our port, are not this daemon."""
    own = [("127.0.0.1", 7180), ("0.0.0.0", 7180)]
    for url in ("http://127.0.0.1:7181", "http://10.0.0.4:7180"):
        verdict = validate_base_url_network_policy(url, allow_private=True, own=own)
        assert isinstance(verdict, BaseUrl)


def test_a_refusal_quotes_no_user_information() -> None:
    """The message of a refused URL never repeats what stood before the host or behind the path."""
    for url in ("https://u:hunter2@h/v1", "https://h/v1?key=hunter2", "https://h/hunter2 x"):
        verdict = validate_base_url_network_policy(url, allow_private=False)
        assert isinstance(verdict, UrlProblem)
        assert "hunter2" not in verdict.message


def test_a_refusal_names_the_line_to_add() -> None:
    """A refused private address says which setting allows it, a special one that none does."""
    opened = validate_base_url_network_policy("https://10.0.0.1", allow_private=False)
    closed = validate_base_url_network_policy("https://0.0.0.0", allow_private=False)
    assert isinstance(opened, UrlProblem)
    assert isinstance(closed, UrlProblem)
    assert "allow_private_base_url = true" in opened.message
    assert "no setting" in closed.message
