"""`auth/providers/openai`: log in at a provider, in a browser or by pasting an address, and see how that goes."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from palyra.auth.oauth import REDIRECT_URL_MAX_BYTES, read_redirect
from palyra.decisions.oauth import PROVIDER, SENTENCES, sentence_of
from palyra.decisions.profiles import Wish, find_profile
from palyra.engine.console.auth import ActionResult, ProfileParams, Scope, agent_of
from palyra.engine.console.changes import Order
from palyra.engine.console.frame import Items, ListParams, Params, Sight
from palyra.engine.console.pages import page_of
from palyra.engine.oauth import OAuthDesk, Started
from palyra.engine.questions import Answer
from palyra.errors import Refusal, Refused, or_refuse
from palyra.projections.oauth import OAuthAttempt, attempt_of

Mode = Literal["browser", "paste"]


class BootstrapParams(Params, frozen=True, kw_only=True):
    """A login, and the profile that it becomes."""

    profile_name: str = "Default"
    profile_id: str = ""
    scope: Scope = Scope()
    #: What is asked for; those of the configuration where none is named.
    scopes: Annotated[list[str], msgspec.Meta(max_length=32)] = []
    set_default: bool = False
    mode: Mode = "browser"


class ReconnectParams(Params, frozen=True, kw_only=True):
    """A login for a profile that is there."""

    profile_id: str
    mode: Mode = "browser"


class CompleteParams(Params, frozen=True, kw_only=True):
    """The address that a login by pasting ended at."""

    attempt_id: str
    redirect_url: str


class AttemptParams(Params, frozen=True, kw_only=True):
    """Which login."""

    id: str


class StateParams(Params, frozen=True, kw_only=True):
    """Which login."""

    attempt_id: str


class StartedAnswer(Answer, frozen=True, kw_only=True):
    """A login that was just started. The one address that is there holds a secret, and is good once."""

    attempt_id: str
    mode: Mode
    #: Where a person goes who pastes the address that this ends at.
    authorize_url: str | None
    #: Where a browser goes, within a minute.
    launch_url: str | None
    redirect_uri: str
    expires_us: int
    warnings: list[str] = []


class AttemptView(Answer, frozen=True, kw_only=True):
    """How a login stands."""

    attempt_id: str
    provider: str
    mode: Mode
    state: str
    failure_code: str | None
    profile_id: str | None
    message: str
    created_us: int
    expires_us: int
    ended_us: int | None


async def bootstrap(order: Order, params: BootstrapParams) -> StartedAnswer:
    """Start a login for a new profile."""
    core = order.core
    wish = Wish(
        provider=PROVIDER,
        profile_name=params.profile_name.strip(),
        profile_id=params.profile_id,
        agent_id=agent_of(params.scope),
        suffix=core.ids.ulid(core.clock.now_us())[-6:].lower(),
    )
    started = await _desk(order).start(
        order, mode=params.mode, wish=wish, set_default=params.set_default, scopes=params.scopes or None
    )
    return _told(started)


async def reconnect(order: Order, params: ReconnectParams) -> StartedAnswer:
    """Start a login that gives new tokens to a profile."""
    profile = or_refuse(find_profile(order.core.state, params.profile_id))
    if profile.provider != PROVIDER or profile.credential_kind != "oauth2":
        message = f"{profile.profile_id} was not connected by a login at {PROVIDER}."
        raise Refused(Refusal(code="profile_provider_mismatch", message=message, param="profile_id"))
    return _told(await _desk(order).start(order, mode=params.mode, for_profile=profile))


def _told(started: Started) -> StartedAnswer:
    attempt = started.attempt
    warnings = []
    if "offline_access" not in attempt.grant.scopes:
        warnings.append("Without the scope offline_access the token cannot be renewed: log in again when it ends.")
    return StartedAnswer(
        attempt_id=attempt.attempt_id,
        mode=attempt.mode,
        authorize_url=None if started.authorize_url is None else started.authorize_url.reveal(),
        launch_url=None if started.launch_url is None else started.launch_url.reveal(),
        redirect_uri=attempt.redirect_uri,
        expires_us=attempt.expires_us,
        warnings=warnings,
    )


async def complete(order: Order, params: CompleteParams) -> AttemptView:
    """Finish a login by the address that it ended at."""
    url = params.redirect_url.strip()
    if not 1 <= len(url.encode("utf-8", "replace")) <= REDIRECT_URL_MAX_BYTES:
        message = f"An address has 1 to {REDIRECT_URL_MAX_BYTES:,} bytes."
        raise Refused(Refusal(code="invalid_request", message=message, param="redirect_url"))
    redirect = read_redirect(urlsplit(url).query)
    return _view(await _desk(order).complete(order, params.attempt_id, redirect))


async def cancel(order: Order, params: AttemptParams) -> AttemptView:
    """End a login that nobody has come back from."""
    return _view(await _desk(order).cancel(order, params.id))


async def refresh(order: Order, params: ProfileParams) -> ActionResult:
    """Renew a profile's token now, or join whoever does."""
    profile = or_refuse(find_profile(order.core.state, params.id))
    renewed = await order.desk.tokens.renew(params.id)
    if renewed.refusal is not None:
        raise Refused(renewed.refusal)
    return ActionResult(
        provider=profile.provider,
        action="refresh",
        state="joined" if renewed.is_joined else "refreshed",
        profile_id=params.id,
        message="The next request is made with a new token.",
    )


def callback_state(sight: Sight, params: StateParams) -> AttemptView:
    """Return how a login stands."""
    attempt = attempt_of(sight.state, params.attempt_id, sight.now_us)
    if attempt is None:
        message = "There is no such login, or not any more."
        raise Refused(Refusal(code="attempt_not_found", message=message, param="attempt_id"))
    return _view(attempt, sight.now_us)


def attempts(sight: Sight, params: ListParams) -> Items[AttemptView]:
    """Return logins, newest first: those that are open, and those of the last minutes."""
    state = sight.state
    found = [one for name in state.oauth.attempts if (one := attempt_of(state, name, sight.now_us)) is not None]
    views = [_view(one, sight.now_us) for one in reversed(found)]
    return page_of(views, params, lambda one: (one.attempt_id,), is_falling=True)


def _view(attempt: OAuthAttempt, now_us: int = 0) -> AttemptView:
    is_late = attempt.state == "pending" and now_us >= attempt.expires_us
    return AttemptView(
        attempt_id=attempt.attempt_id,
        provider=attempt.provider,
        mode=attempt.mode,
        state="expired" if is_late else attempt.state,
        failure_code=attempt.failure_code or None,
        profile_id=(attempt.for_profile_id or attempt.profile_id or None) if attempt.state == "completed" else None,
        message=SENTENCES["expired"] if is_late else sentence_of(attempt),
        created_us=attempt.created_us,
        expires_us=attempt.expires_us,
        ended_us=attempt.ended_us or None,
    )


def _desk(order: Order) -> OAuthDesk:
    return order.desk.oauth
