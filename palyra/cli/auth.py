"""`palyra auth`: the identities that Palyra has towards providers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer
from palyra.cli.login import attempts, login, refresh
from palyra.cli.page import Column, Page, Piece, Styled
from palyra.cli.render import ago, count, instant
from palyra.cli.secret_input import key_options, read_key_input

if TYPE_CHECKING:
    from palyra.cli.asking import Asked
    from palyra.engine.console.auth import ActionResult
    from palyra.engine.console.auth_views import ExplainAnswer, HealthAnswer, OrderView, ProfileView

_HEALTH_STYLE = {
    "static": "good",
    "ok": "good",
    "expiring": "warn",
    "expired": "bad",
    "missing": "bad",
    "failed": "bad",
}
_EXITS = (0, 2, 3, 4, 6, 7, 8)
_READ_EXITS = (0, 2, 5, 7, 8)


@click.group(
    cls=Group,
    examples=[
        ("palyra auth connect openai", "ask for a key, check it, keep it"),
        ("palyra auth list", "all credentials and how they do"),
        ("palyra auth explain openai", "which of them a request would be made with"),
    ],
)
def auth() -> None:
    """Connect, check, change and revoke the keys that providers are asked with."""


@auth.command(
    "connect",
    examples=[
        ("palyra auth connect openai", "ask for the key"),
        ("palyra auth connect groq --key-env GROQ_KEY --name Work", "take it from a variable"),
        ("palyra auth connect anthropic --key-stdin", "read it from standard input"),
        ("palyra auth connect openai --agent coder --default", "for one agent, before the others"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("provider", metavar="PROVIDER")
@click.option("--profile", "profile_id", default="", metavar="ID", help="Id of the profile; else made of its name.")
@click.option("--name", default="Default", metavar="NAME", help="Name of the profile.")
@click.option("--agent", default="", metavar="ID", help="Only for runs of this agent.")
@click.option("--default", "is_default", is_flag=True, help="Try it before the others.")
@key_options
def connect(
    call: Call,
    provider: str,
    profile_id: str,
    name: str,
    agent: str,
    is_default: bool,
    key_env: str | None,
    is_key_stdin: bool,
    stray: tuple[str, ...],
) -> Answer:
    """Check a provider's key at the provider, and keep it in the vault as a profile."""
    from palyra.engine.console.auth import ConnectParams
    from palyra.engine.console.table import AUTH_CONNECT

    key = read_key_input(f"Key for {provider}", key_env, is_key_stdin, stray)
    params = ConnectParams(
        provider=provider,
        api_key=key.reveal(),
        profile_name=name,
        profile_id=profile_id,
        scope=_scope(agent),
        set_default=is_default,
    )
    return _change(call, AUTH_CONNECT, params)


def _scope(agent_id: str) -> Any:
    from palyra.engine.console.auth import Scope

    return Scope(kind="agent", agent_id=agent_id) if agent_id else Scope()


def _change(call: Call, what: Any, params: Any) -> Answer:
    from palyra.cli.asking import change

    done: Asked[ActionResult] = change(call, what, params)
    return done.answer(lambda page: _show_result(page, done.found))


def _show_result(page: Page, found: ActionResult) -> None:
    models = f" · {count(found.models_count)} models" if found.models_count is not None else ""
    page.line(Styled(found.profile_id, "bold"), f" of {found.provider} · ", Styled(found.state, "good"), models)
    page.line(found.message)
    if found.duplicate_of:
        page.line(Styled(f"{found.duplicate_of} has the very same key.", "warn"))
    for warning in found.warnings:
        page.line(Styled(warning, "warn"))


@auth.command(
    "list",
    examples=[
        ("palyra auth list", "credentials that are in use"),
        ("palyra auth list openai --all", "of one provider, the revoked ones too"),
        ("palyra auth list --as-of -1d", "those of yesterday"),
    ],
    exits=_READ_EXITS,
    takes_as_of=True,
)
@click.argument("provider", metavar="[PROVIDER]", default="")
@click.option("--agent", default="", metavar="ID", help="Only what runs of this agent see.")
@click.option("--all", "is_all", is_flag=True, help="Also what was revoked.")
def list_(call: Call, provider: str, agent: str, is_all: bool) -> Answer:
    """Show credentials: profiles, and keys that the configuration names."""
    from palyra.cli.asking import ask_all
    from palyra.engine.console.auth_views import ProfilesParams
    from palyra.engine.console.table import AUTH_PROFILES

    params = ProfilesParams(limit=500, provider=provider, agent_id=agent, all=is_all)
    asked = ask_all(call, AUTH_PROFILES, params)
    return asked.answer(lambda page: _show_list(page, asked.found.items, asked.now_us))


def _show_list(page: Page, found: list[ProfileView], now_us: int) -> None:
    if not found:
        page.line(Styled("No credential is connected; palyra auth connect PROVIDER stores one.", "dim"))
        return
    columns = [
        Column("ID", is_cut=True),
        Column("PROVIDER", is_cut=True),
        Column("HEALTH"),
        Column("NAME", is_cut=True, spare=2),
        Column("FOR", spare=3),
        Column("KIND", spare=4),
        Column("PAUSED", spare=1),
        Column("USED", spare=1),
    ]
    rows = [
        (
            one.profile_id,
            one.provider,
            _health(one),
            f"{one.profile_name}{' (default)' if one.is_default else ''}",
            one.scope.agent_id or "all",
            one.credential_kind if one.source == "profile" else one.source.removeprefix("config_"),
            f"until {ago(max(each.until_us for each in one.cooldowns), now_us)}" if one.cooldowns else "",
            ago(one.last_used_us, now_us) if one.last_used_us else "",
        )
        for one in found
    ]
    page.table(columns, rows)


def _health(one: ProfileView) -> Piece:
    words = f"{one.health}: {one.health_reason}" if one.health_reason else one.health
    return Styled(words, _HEALTH_STYLE[one.health])


@auth.command(
    "show",
    examples=[
        ("palyra auth show work-openai", "one profile"),
        ("palyra auth show config:groq --json", "the key that an entry names, for a program"),
        ("palyra auth show work-openai --as-of -1h", "an hour ago"),
    ],
    exits=_READ_EXITS,
    takes_as_of=True,
)
@click.argument("profile", metavar="ID")
def show(call: Call, profile: str) -> Answer:
    """Show one credential; what it is, where it may be sent and how it does. Its secret is never shown."""
    from palyra.cli.asking import ask
    from palyra.engine.console.auth_views import ProfileParams
    from palyra.engine.console.table import AUTH_PROFILE

    asked = ask(call, AUTH_PROFILE, ProfileParams(id=profile))
    return asked.answer(lambda page: _show_profile(page, asked.found, asked.now_us))


def _show_profile(page: Page, one: ProfileView, now_us: int) -> None:
    def when(us: int | None, otherwise: str) -> str:
        return f"{instant(us, page.zone)} ({ago(us, now_us)})" if us is not None else otherwise

    page.line(Styled(one.profile_id, "bold"), f" of {one.provider} · ", _health(one))
    rows = [
        ("name", one.profile_name),
        ("for", f"agent {one.scope.agent_id}" if one.scope.agent_id else "all"),
        ("status", one.status),
        ("sent to", one.audience),
        ("revision", str(one.vault_revision) if one.vault_revision else ""),
        ("fingerprint", one.key_fingerprint or ""),
        ("expires", when(one.expires_us, "")),
        ("scopes", " ".join(one.scopes)),
        ("refresh", one.refresh.state if one.refresh is not None else ""),
        *(
            ("paused", f"{each.model_id or 'all'}: {each.kind}, {when(each.until_us, '')}")
            for each in one.cooldowns
        ),
        ("connected", when(one.created_us, "")),
        ("used", when(one.last_used_us, "never")),
    ]
    page.fields([row for row in rows if row[1]])


@auth.command(
    "health",
    examples=[
        ("palyra auth health", "how all of them do; exit 7 unless all do well"),
        ("palyra auth health --json", "the same for a program"),
        ("palyra auth health --as-of boot", "at the last start"),
    ],
    exits=_READ_EXITS,
    takes_as_of=True,
)
def health(call: Call) -> Answer:
    """Show how all credentials do. Nobody is asked; palyra auth validate asks a provider."""
    from palyra.cli.asking import ask
    from palyra.engine.console.auth_views import HealthParams
    from palyra.engine.console.table import AUTH_HEALTH
    from palyra.errors import PalyraError

    window_ms = call.loaded.config.auth.expiring_window_ms
    asked = ask(call, AUTH_HEALTH, HealthParams(expiring_window_ms=window_ms))
    ill = [one.profile_id for one in asked.found.profiles if one.status == "active" and _is_ill(one)]
    answer = asked.answer(lambda page: _show_health(page, asked.found, asked.now_us))
    if not ill:
        return answer
    hint = "palyra auth rotate ID gives a profile another key"
    failure = PalyraError(f"These cannot be used: {', '.join(ill)}.", hint=hint, code="credentials_ill")
    return answer._replace(failure=failure)


def _is_ill(one: ProfileView) -> bool:
    return one.health not in ("static", "ok", "expiring")


def _show_health(page: Page, found: HealthAnswer, now_us: int) -> None:
    counted = [f"{number} {name}" for name, number in found.summary.items() if number and name != "total"]
    page.fields(
        [
            ("credentials", f"{found.summary['total']} ({', '.join(counted)})" if counted else "none"),
            ("vault", f"{found.vault.state} · {found.vault.key_source}" if found.vault.key_source else "empty"),
        ]
    )
    page.line()
    _show_list(page, found.profiles, now_us)


@auth.command(
    "validate",
    examples=[
        ("palyra auth validate work-openai", "ask the provider whether it takes the key"),
        ("palyra auth validate work-openai --json", "the same for a program"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("profile", metavar="ID")
def validate(call: Call, profile: str) -> Answer:
    """Ask the provider whether it takes a profile's key; that costs nothing, and ends a failure if it does."""
    from palyra.engine.console.auth import ProfileParams
    from palyra.engine.console.table import AUTH_VALIDATE

    return _change(call, AUTH_VALIDATE, ProfileParams(id=profile))


@auth.command(
    "rotate",
    examples=[
        ("palyra auth rotate work-openai", "ask for another key and put it in its place"),
        ("palyra auth rotate work-openai --key-env NEW_KEY", "take it from a variable"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("profile", metavar="ID")
@key_options
def rotate(call: Call, profile: str, key_env: str | None, is_key_stdin: bool, stray: tuple[str, ...]) -> Answer:
    """Give a profile another key, if its provider takes it; open requests go on with the one they have."""
    from palyra.engine.console.auth import KeyParams
    from palyra.engine.console.table import AUTH_ROTATE

    key = read_key_input(f"New key for {profile}", key_env, is_key_stdin, stray)
    return _change(call, AUTH_ROTATE, KeyParams(id=profile, api_key=key.reveal()))


@auth.command(
    "rebind",
    examples=[
        ("palyra auth rebind work-openai openai-eu", "send it where this entry is, and nowhere else"),
        ("palyra auth rebind work-openai openai-eu --json", "the same for a program"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("profile", metavar="ID")
@click.argument("provider", metavar="PROVIDER")
def rebind(call: Call, profile: str, provider: str) -> Answer:
    """Check a profile's key where a provider of the configuration is now, and bind it to that address."""
    from palyra.engine.console.auth import RebindParams
    from palyra.engine.console.table import AUTH_REBIND

    return _change(call, AUTH_REBIND, RebindParams(id=profile, provider_id=provider))


@auth.command(
    "default",
    examples=[
        ("palyra auth default work-openai", "try it before the others"),
        ("palyra auth default work-openai --json", "the same for a program"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("profile", metavar="ID")
def default(call: Call, profile: str) -> Answer:
    """Try a profile before the others of its provider and scope."""
    from palyra.engine.console.auth import ProfileParams
    from palyra.engine.console.table import AUTH_DEFAULT

    return _change(call, AUTH_DEFAULT, ProfileParams(id=profile))


@auth.command(
    "disable",
    examples=[
        ("palyra auth disable work-openai", "let it rest"),
        ("palyra auth disable work-openai --json", "the same for a program"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("profile", metavar="ID")
def disable(call: Call, profile: str) -> Answer:
    """Let a profile rest until it is enabled."""
    from palyra.engine.console.auth import ProfileParams
    from palyra.engine.console.table import AUTH_DISABLE

    return _change(call, AUTH_DISABLE, ProfileParams(id=profile))


@auth.command(
    "enable",
    examples=[
        ("palyra auth enable work-openai", "use it again"),
        ("palyra auth enable work-openai --json", "the same for a program"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("profile", metavar="ID")
def enable(call: Call, profile: str) -> Answer:
    """Use a profile again."""
    from palyra.engine.console.auth import ProfileParams
    from palyra.engine.console.table import AUTH_ENABLE

    return _change(call, AUTH_ENABLE, ProfileParams(id=profile))


@auth.command(
    "revoke",
    examples=[
        ("palyra auth revoke work-openai", "use it no more and delete its secret"),
        ("palyra auth revoke work-openai --local-only", "and ask nothing of the provider"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("profile", metavar="ID")
@click.option("--local-only", "is_local", is_flag=True, help="Ask nothing of the provider.")
def revoke(call: Call, profile: str, is_local: bool) -> Answer:
    """Use a profile no more and delete its secret."""
    from palyra.engine.console.auth import RevokeParams
    from palyra.engine.console.table import AUTH_REVOKE

    return _change(call, AUTH_REVOKE, RevokeParams(id=profile, local_only=is_local))


@auth.group(
    cls=Group,
    examples=[
        ("palyra auth order show openai", "in which order profiles are tried"),
        ("palyra auth order set openai work home", "another one"),
    ],
)
def order() -> None:
    """Show and set in which order profiles are tried."""


@order.command(
    "show",
    examples=[
        ("palyra auth order show openai", "the order of all"),
        ("palyra auth order show openai --agent coder", "that of an agent"),
    ],
    exits=_READ_EXITS,
    takes_as_of=True,
)
@click.argument("provider", metavar="PROVIDER")
@click.option("--agent", default="", metavar="ID", help="As a run of this agent sees it.")
def show_order(call: Call, provider: str, agent: str) -> Answer:
    """Show in which order the profiles of a provider are tried."""
    from palyra.cli.asking import ask
    from palyra.engine.console.auth_views import OrderParams
    from palyra.engine.console.table import AUTH_ORDER

    asked = ask(call, AUTH_ORDER, OrderParams(provider=provider, agent_id=agent))
    return asked.answer(lambda page: _show_order(page, asked.found))


def _show_order(page: Page, found: OrderView) -> None:
    page.fields(
        [
            ("provider", found.provider),
            ("for", found.scope.agent_id or "all"),
            ("strategy", found.strategy.replace("_", " ")),
            ("order", " ".join(found.profile_ids) or Styled("none", "dim")),
        ]
    )


@order.command(
    "set",
    examples=[
        ("palyra auth order set openai work home", "try these two, in this order, and no others"),
        ("palyra auth order set openai a b --strategy least_recently_used", "take turns"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("provider", metavar="PROVIDER")
@click.argument("profiles", metavar="ID...", nargs=-1, required=True)
@click.option("--agent", default="", metavar="ID", help="For runs of this agent.")
@click.option(
    "--strategy",
    type=click.Choice(["sticky", "least_recently_used"]),
    default="sticky",
    help="The first that may be used, or take turns.",
)
def set_order(call: Call, provider: str, profiles: tuple[str, ...], agent: str, strategy: Any) -> Answer:
    """Replace order and strategy; what is not named is not used."""
    from palyra.cli.asking import change
    from palyra.engine.console.auth import OrderParams
    from palyra.engine.console.table import AUTH_ORDER_SET

    params = OrderParams(provider=provider, profile_ids=list(profiles), scope=_scope(agent), strategy=strategy)
    done = change(call, AUTH_ORDER_SET, params)
    return done.answer(lambda page: page.line(f"{provider}: {' '.join(profiles)}"))


@auth.group(
    cls=Group,
    examples=[
        ("palyra auth cooldown clear work-openai", "use it now, whatever its provider asked for"),
        ("palyra auth cooldown clear config:groq", "of a key that the configuration names"),
    ],
)
def cooldown() -> None:
    """End the pauses of a credential."""


@cooldown.command(
    "clear",
    examples=[
        ("palyra auth cooldown clear work-openai", "use it now; a failure stays"),
        ("palyra auth cooldown clear work-openai --json", "the same for a program"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("profile", metavar="ID")
def clear_cooldown(call: Call, profile: str) -> Answer:
    """End every pause of a credential; a failure stays."""
    from palyra.engine.console.auth import ProfileParams
    from palyra.engine.console.table import AUTH_COOLDOWN_CLEAR

    return _change(call, AUTH_COOLDOWN_CLEAR, ProfileParams(id=profile))


@auth.command(
    "explain",
    examples=[
        ("palyra auth explain openai", "which credential would be used, and why not the others"),
        ("palyra auth explain openai --model gpt-5-mini --agent coder", "for this model and agent"),
    ],
    exits=_READ_EXITS,
    takes_as_of=True,
)
@click.argument("provider", metavar="PROVIDER")
@click.option("--model", default="", metavar="ID", help="For this model: pauses can be of one alone.")
@click.option("--agent", default="", metavar="ID", help="As a run of this agent sees it.")
def explain(call: Call, provider: str, model: str, agent: str) -> Answer:
    """Tell which credential a request would be made with, and what is wrong with the others."""
    from palyra.cli.asking import ask
    from palyra.engine.console.auth_views import ExplainParams
    from palyra.engine.console.table import AUTH_EXPLAIN

    asked = ask(call, AUTH_EXPLAIN, ExplainParams(provider_id=provider, model_id=model, agent_id=agent))
    return asked.answer(lambda page: _show_choice(page, asked.found, asked.now_us))


def _show_choice(page: Page, found: ExplainAnswer, now_us: int) -> None:
    chosen = Styled(found.selected, "good") if found.selected else Styled("none", "bad")
    page.fields([("selected", chosen), ("because", found.reason.replace("_", " "))])
    if found.candidates:
        page.line()
        rows = [
            (
                str(one.rank),
                one.profile_id,
                one.verdict.replace("_", " "),
                f"until {ago(one.until_us, now_us)}" if one.until_us else "",
            )
            for one in found.candidates
        ]
        page.table([Column("#"), Column("ID", is_cut=True), Column("VERDICT"), Column("")], rows)


for _command in (login, attempts, refresh):
    auth.add_command(_command)
