"""The three forms that a token endpoint gets: each field that the specifications name, and the client's secret."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest

from palyra.auth.oauth import exchange_body, refresh_body, revoke_body
from palyra.redaction import Secret

OURS = {"client_id": "c-1"}


def form(body: Secret) -> dict[str, str]:
    pairs = parse_qsl(body.reveal(), strict_parsing=True)
    assert len(dict(pairs)) == len(pairs), "a field is there twice"
    return dict(pairs)


@pytest.mark.parametrize("secret", [None, "s e&c=ret"])
def test_forms_name_the_client_and_prove_it(secret: str | None) -> None:
    """RFC 6749, 4.1.3 and 6, RFC 7636, 4.5 and RFC 7009, 2.1; a client without a secret sends none."""
    client_secret = None if secret is None else Secret(secret)
    proof = {} if secret is None else {"client_secret": secret}
    redirect_uri = "http://localhost:1455/auth/callback"
    exchange = exchange_body(
        Secret("co+de"), Secret("verifier"), **OURS, redirect_uri=redirect_uri, client_secret=client_secret
    )
    assert form(exchange) == {
        "grant_type": "authorization_code", "code": "co+de", "redirect_uri": redirect_uri,
        "code_verifier": "verifier", **OURS, **proof,
    }  # fmt: skip
    refresh = refresh_body(Secret("re/fresh"), **OURS, client_secret=client_secret)
    assert form(refresh) == {"grant_type": "refresh_token", "refresh_token": "re/fresh", **OURS, **proof}
    revoke = revoke_body(Secret("to ken"), "refresh_token", **OURS, client_secret=client_secret)
    assert form(revoke) == {"token": "to ken", "token_type_hint": "refresh_token", **OURS, **proof}
    for body in (exchange, refresh, revoke):
        assert "s e" not in repr(body)
