"""PKCE as RFC 7636 has it: its own vector, and verifiers that nobody guesses."""

from __future__ import annotations

import re

from palyra.auth.oauth import challenge_of, generate_pkce_verifier
from palyra.redaction import Secret


def test_the_challenge_is_that_of_the_standard() -> None:
    """Appendix B of RFC 7636."""
    verifier = Secret("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
    assert challenge_of(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_verifiers_have_43_characters_and_differ() -> None:
    """256 random bits in base64url without padding."""
    verifiers = [generate_pkce_verifier().reveal() for _ in range(200)]
    assert len(set(verifiers)) == 200
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", one) for one in verifiers)
