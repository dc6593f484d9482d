"""The pages that a browser sees on its way to a provider and back: our own words, no script, nothing of others.

Three places: `launch/<code>` gives the browser its cookie and sends it on, `callback` takes what it comes back
with, `done/<attempt_id>` says how that ended, so that no code stays in the address bar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import NamedTuple
from urllib.parse import urlsplit

from palyra.auth.oauth import read_redirect
from palyra.daemon.answers import CONSOLE_ANSWER
from palyra.decisions.oauth import sentence_of
from palyra.engine.oauth import OAuthDesk, cookie_name
from palyra.errors import PalyraError, Refusal, Refused
from palyra.units import us_to_ms

#: Nothing at all is loaded by these pages.
_HEADERS = {
    **CONSOLE_ANSWER,
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
_QUERY_MAX_CHARS = 8_192


class PageAnswer(NamedTuple):
    """What goes back; `code` is why a visitor was turned away, "" where nobody was."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    code: str = ""


class LoginPages:
    """Answers browsers that log in at a provider."""

    def __init__(self, desk: OAuthDesk, now_us: Callable[[], int]) -> None:
        self._desk = desk
        self._now_us = now_us

    async def launch(self, code: str) -> PageAnswer:
        """Give a browser its cookie and send it to the provider."""
        try:
            launch = self._desk.launch(code)
        except PalyraError as error:
            return _refused(Refusal(code=error.code, message=str(error)))
        if isinstance(launch, Refusal):
            return _refused(launch)
        attempt = launch.attempt
        life_s = max(0, us_to_ms(attempt.expires_us - self._now_us()) // 1_000)
        place = urlsplit(attempt.redirect_uri)
        secure = "; Secure" if place.scheme == "https" else ""
        cookie = (
            f"{cookie_name(attempt)}={launch.cookie.reveal()}; Path={place.path}; Max-Age={life_s}; HttpOnly;"
            f" SameSite=Lax{secure}"
        )
        return PageAnswer(303, {**_HEADERS, "Set-Cookie": cookie, "Location": launch.authorize_url.reveal()}, b"")

    async def callback(self, query: str, cookies: Mapping[str, str]) -> PageAnswer:
        """Take what a browser came back with."""
        try:
            if len(query) > _QUERY_MAX_CHARS:
                raise Refused(Refusal(code="invalid_query", message="This address is too long."))
            ended = await self._desk.arrive(read_redirect(query), cookies)
        except Refused as refused:
            ended = refused.refusal
        except PalyraError as error:
            ended = Refusal(code=error.code, message="The login cannot be finished right now; come back to it.")
        if isinstance(ended, Refusal):
            return _refused(ended)
        return PageAnswer(
            303, {**_HEADERS, "Location": f"{places_of(ended.redirect_uri).done}{ended.attempt_id}"}, b""
        )

    async def done(self, attempt_id: str) -> PageAnswer:
        """Say how a login ended."""
        try:
            attempt = self._desk.find(attempt_id)
        except Refused as refused:
            return _refused(refused.refusal)
        title = {"completed": "Logged in", "pending": "Waiting", "exchanging": "Waiting"}.get(
            attempt.state, "Not logged in"
        )
        return PageAnswer(200, _HEADERS, _page(title, sentence_of(attempt)))


class Places(NamedTuple):
    """Paths of the pages of one place to come back to."""

    callback: str
    #: In front of the code, and of the attempt's id.
    launch: str
    done: str


def places_of(redirect_uri: str) -> Places:
    """Return where the pages are that belong to an address to come back to."""
    path = urlsplit(redirect_uri).path
    beside = path.removesuffix("/callback")
    return Places(path, f"{beside}/launch/", f"{beside}/done/")


def _refused(refusal: Refusal) -> PageAnswer:
    headers = dict(_HEADERS)
    if refusal.retry_after_ms is not None:
        headers["Retry-After"] = str(max(1, refusal.retry_after_ms // 1_000))
    return PageAnswer(refusal.http_status, headers, _page("Not logged in", refusal.message), refusal.code)


def _page(title: str, sentence: str) -> bytes:
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)} - Palyra</title></head>\n'
        f"<body><h1>{escape(title)}</h1><p>{escape(sentence)}</p><p>You can close this page.</p></body></html>\n"
    ).encode()
