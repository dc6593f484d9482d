"""Where a daemon may listen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palyra.config.load import load_given
from palyra.config.problems import ConfigProblems

TLS = {"tls_cert_file": "/c.pem", "tls_key_file": "/k.pem"}


def codes(**daemon: Any) -> list[str]:
    """Return the problems of a `[daemon]`, warnings too."""
    try:
        loaded = load_given({"daemon": daemon}, {"HOME": "/home/me"}, {})
    except ConfigProblems as found:
        return [problem.code for problem in found.problems]
    return [problem.code for problem in loaded.warnings]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "2001:db8::1"])
def test_beyond_this_machine_somebody_has_to_say_so(host: str) -> None:
    """TLS and consent, or consent to a plain listener, which is warned about; either alone is not enough."""
    assert codes(host=host) == ["unsafe_bind"]
    assert codes(host=host, allow_remote=True) == ["unsafe_bind"]
    assert codes(host=host, **TLS) == ["unsafe_bind"]
    assert codes(host=host, allow_remote=True, **TLS) == []
    assert codes(host=host, allow_plain_remote=True) == ["plain_remote"]
    assert codes(host=host, allow_plain_remote=True, **TLS) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_this_machine_nothing_is_asked(host: str) -> None:
    """With TLS or without."""
    assert codes(host=host) == codes(host=host, **TLS) == []


def test_tls_files_belong_together() -> None:
    """A certificate without its key, a key without its certificate, an authority without both."""
    for name in TLS:
        assert codes(**{name: TLS[name]}) == ["conflicting_keys"]
    assert codes(tls_client_ca_file="/ca.pem") == ["conflicting_keys"]
    assert codes(tls_client_ca_file="/ca.pem", **TLS) == []


def test_a_faulty_host_is_one_problem(tmp_path: Path) -> None:
    """What is no address is told once."""
    assert codes(host="example.com") == ["out_of_range"]
