"""OAuth 2 with PKCE, sans-IO: what is sent to a provider, and what its answers say.

URL, challenge and request bodies come from `oauthlib`, which is imported when somebody logs in and not before. It
never sees a socket; whoever uses this moves the bytes. Sources: RFC 6749, RFC 7636, RFC 7009, RFC 9207, OpenID
Connect Core 3.1.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from palyra.auth.keys import digest_of
from palyra.redaction import Secret

if TYPE_CHECKING:
    from oauthlib.oauth2 import WebApplicationClient

REDIRECT_URL_MAX_BYTES = 4_096
CODE_MAX_BYTES = 2_048
_PARAMETERS_MAX_COUNT = 32
ANSWER_MAX_BYTES = 65_536
_TOKEN_MIN_BYTES, _TOKEN_MAX_BYTES = 8, 16_384
_LIFE_MAX_S = 31_536_000
_ID_TOKEN_MAX_BYTES = 16_384
#: RFC 7636 wants 32 random bytes; the others are as hard to guess.
_VERIFIER_BYTES, _STATE_BYTES, _NONCE_BYTES, _COOKIE_BYTES = 32, 32, 16, 32


def generate_pkce_verifier() -> Secret:
    """Return 32 random bytes as 43 characters (RFC 7636, 4.1)."""
    return Secret(secrets.token_urlsafe(_VERIFIER_BYTES))


def challenge_of(verifier: Secret) -> str:
    """Return the S256 challenge of a verifier (RFC 7636, 4.2)."""
    return str(_client("").create_code_challenge(verifier.reveal(), "S256"))


class AttemptSecrets(NamedTuple):
    """What an attempt keeps to itself."""

    verifier: Secret
    state: Secret
    nonce: Secret
    cookie: Secret

    @property
    def parts(self) -> dict[str, Secret]:
        """In the form in which the vault seals them."""
        return self._asdict()

    @property
    def digests(self) -> tuple[str, str, str]:
        """Of state, challenge and cookie: what the journal may know."""
        challenge = challenge_of(self.verifier)
        return digest_of(self.state.reveal()), digest_of(challenge), digest_of(self.cookie.reveal())


def new_attempt() -> AttemptSecrets:
    """Return the secrets of a new attempt."""
    return AttemptSecrets(
        verifier=generate_pkce_verifier(),
        state=Secret(secrets.token_urlsafe(_STATE_BYTES)),
        nonce=Secret(secrets.token_urlsafe(_NONCE_BYTES)),
        cookie=Secret(secrets.token_urlsafe(_COOKIE_BYTES)),
    )


def authorize_url(
    endpoint: str,
    parts: Mapping[str, Secret],
    *,
    client_id: str,
    redirect_uri: str,
    scopes: Sequence[str],
    extra: Mapping[str, str],
) -> Secret:
    """Return the address that a person is sent to. It holds the state, so it is a secret itself."""
    url = _client(client_id).prepare_request_uri(
        _for_the_parser(endpoint),
        redirect_uri=redirect_uri,
        scope=list(scopes),
        state=parts["state"].reveal(),
        code_challenge=challenge_of(parts["verifier"]),
        code_challenge_method="S256",
        nonce=parts["nonce"].reveal(),
        **extra,
    )
    scheme = endpoint.partition("://")[0]
    return Secret(f"{scheme}://{url.partition('://')[2]}")


class Redirect(NamedTuple):
    """Where a provider sent somebody back to: its own words, of which nothing is shown."""

    query: str
    #: "" where it has none, or more than one.
    state_digest: str
    issuer: str


def read_redirect(query: str) -> Redirect:
    """Return what the query of an address says that somebody came back to."""
    pairs = parse_qsl(query, keep_blank_values=True) if query.count("&") < _PARAMETERS_MAX_COUNT else []
    found = dict(pairs)
    is_plain = len(found) == len(pairs)  # RFC 6749, 3.1: no parameter comes twice
    state = found.get("state", "") if is_plain else ""
    return Redirect(query, digest_of(state) if state else "", found.get("iss", "") if is_plain else "")


class NoCode(Exception):
    """An answer that brings no code; the argument says which of our failures it is."""


def code_of(redirect: Redirect) -> Secret:
    """Return the code that came back; raises `NoCode`."""
    from oauthlib.oauth2 import OAuth2Error
    from oauthlib.oauth2.rfc6749.errors import MissingCodeError
    from oauthlib.oauth2.rfc6749.parameters import parse_authorization_code_response

    try:
        # https for the parser only: ours is a loopback address, which never leaves this machine.
        found = parse_authorization_code_response(f"https://callback.invalid/?{redirect.query}")
    except MissingCodeError:
        raise NoCode("missing_code") from None
    except (OAuth2Error, ValueError):
        raise NoCode("provider_denied") from None
    code = str(found["code"])
    if not 1 <= len(code.encode("utf-8", "replace")) <= CODE_MAX_BYTES:
        raise NoCode("missing_code")
    return Secret(code)


def exchange_body(
    code: Secret, verifier: Secret, *, client_id: str, redirect_uri: str, client_secret: Secret | None
) -> Secret:
    """Return the form that turns a code into tokens (RFC 6749, 4.1.3)."""
    more = {} if client_secret is None else {"client_secret": client_secret.reveal()}
    body = _client(client_id).prepare_request_body(
        code=code.reveal(), redirect_uri=redirect_uri, code_verifier=verifier.reveal(), **more
    )
    return Secret(str(body))


def refresh_body(refresh_token: Secret, *, client_id: str, client_secret: Secret | None) -> Secret:
    """Return the form that turns a refresh token into new tokens (RFC 6749, 6)."""
    more = {} if client_secret is None else {"client_secret": client_secret.reveal()}
    body = _client(client_id).prepare_refresh_body(
        refresh_token=refresh_token.reveal(), client_id=client_id, **more
    )
    return Secret(str(body))


def revoke_body(token: Secret, hint: str, *, client_id: str, client_secret: Secret | None) -> Secret:
    """Return the form that gives a token back (RFC 7009, 2.1)."""
    more = {} if client_secret is None else {"client_secret": client_secret.reveal()}
    _, _, body = _client(client_id).prepare_token_revocation_request(
        "https://revoke.invalid/", token.reveal(), token_type_hint=hint, client_id=client_id, **more
    )
    return Secret(str(body))


class BadTokenAnswer(Exception):
    """An answer of a token endpoint that is not what it must be."""


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """What a token endpoint gave."""

    access_token: Secret
    refresh_token: Secret | None = None
    #: None where it is not known how long the access token lives.
    expires_in_s: int | None = None
    id_token: Secret | None = None


class _Answer(msgspec.Struct, frozen=True):
    """The fields of RFC 6749, 5.1 that are looked at."""

    access_token: str
    token_type: str
    expires_in: int | str | None = None
    refresh_token: str | None = None
    id_token: str | None = None


def read_tokens(body: bytes) -> Tokens:
    """Return the tokens in an answer; raises `BadTokenAnswer`, which says nothing of what was in it."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
        if answer.token_type.lower() != "bearer":
            raise BadTokenAnswer
        return Tokens(
            access_token=_token(answer.access_token),
            refresh_token=_token(answer.refresh_token) if answer.refresh_token else None,
            expires_in_s=_seconds(answer.expires_in),
            id_token=Secret(answer.id_token) if answer.id_token else None,
        )
    except (msgspec.DecodeError, RecursionError):
        pass
    raise BadTokenAnswer  # outside the handler: a decoding error holds the bytes


def _token(text: str) -> Secret:
    # What cannot stand in a header cannot be sent, so it is no token.
    if not _TOKEN_MIN_BYTES <= len(text) <= _TOKEN_MAX_BYTES or not text.isascii() or not text.isprintable():
        raise BadTokenAnswer
    return Secret(text)


def _seconds(value: int | str | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, str):
        if not value.isascii() or not value.isdigit() or len(value) > 10:
            raise BadTokenAnswer
        value = int(value)
    if not 1 <= value <= _LIFE_MAX_S:
        raise BadTokenAnswer
    return value


class _ErrorAnswer(msgspec.Struct, frozen=True):
    error: str


#: Errors of RFC 6749 (5.2) and RFC 7009 (2.2.1); another word is not ours to repeat.
_ERRORS = frozenset(
    "invalid_request invalid_client invalid_grant unauthorized_client unsupported_grant_type invalid_scope"
    " unsupported_token_type".split()
)


def read_error(body: bytes) -> str:
    """Return the error that an answer names, "" for none that is known."""
    try:
        error = msgspec.json.decode(body, type=_ErrorAnswer).error
    except (msgspec.DecodeError, RecursionError):
        return ""
    return error if error in _ERRORS else ""


class _Claims(msgspec.Struct, frozen=True):
    """The claims of an ID token that are looked at."""

    sub: str
    exp: int | float
    aud: str | list[str]
    nonce: str = ""


def subject_of(id_token: Secret, *, nonce: Secret, client_id: str, now_s: int) -> Secret:
    """Return whom an ID token is about; raises `BadTokenAnswer` where it was made for another login.

    It came over TLS from the token endpoint itself, so its signature proves nothing more (OpenID Connect Core
    3.1.3.7, 6).
    """
    text = id_token.reveal()
    parts = text.split(".")
    if len(parts) != 3 or len(text) > _ID_TOKEN_MAX_BYTES:
        raise BadTokenAnswer
    try:
        data = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        claims = msgspec.json.decode(data, type=_Claims)
    except (ValueError, binascii.Error, msgspec.DecodeError, RecursionError):
        claims = None
    if claims is None:
        raise BadTokenAnswer
    audience = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    if not nonce.matches(claims.nonce) or client_id not in audience or claims.exp <= now_s or not claims.sub:
        raise BadTokenAnswer
    return Secret(claims.sub)


def _client(client_id: str) -> WebApplicationClient:
    from oauthlib.oauth2 import WebApplicationClient

    return WebApplicationClient(client_id)


def _for_the_parser(url: str) -> str:
    """Return an address as oauthlib takes one: it knows nothing of loopback."""
    return f"https://{url.partition('://')[2]}"
