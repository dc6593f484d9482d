"""`palyra auth list`, `show`, `health`, `explain`: which profiles there are, how they are, and which is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Piece, Styled
from palyra.cli.render import ago, duration, instant
from palyra.cli.words import verdict_words

if TYPE_CHECKING:
    from palyra.engine.console.auth_views import ExplainAnswer, HealthAnswer, ProfileView

_HEALTH_STYLE = {
    "static": "good",
    "ok": "good",
    "expiring": "warn",
    "expired": "bad",
    "missing": "bad",
    "failed": "bad",
}
_READ_EXITS = (0, 2, 5, 7, 8)


@click.command(
    "list",
    cls=Command,
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
            f"for {duration(max(each.until_us for each in one.cooldowns) - now_us)}" if one.cooldowns else "",
            ago(one.last_used_us, now_us) if one.last_used_us else "",
        )
        for one in found
    ]
    page.table(columns, rows)


def _health(one: ProfileView) -> Piece:
    is_told = one.health_reason in (None, one.health)
    words = one.health if is_told else f"{one.health}: {one.health_reason}"
    return Styled(words, _HEALTH_STYLE[one.health])


@click.command(
    "show",
    cls=Command,
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


@click.command(
    "health",
    cls=Command,
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

    asked = ask(call, AUTH_HEALTH, HealthParams())
    ill = [one.profile_id for one in asked.found.profiles if one.status == "active" and _is_ill(one)]
    answer = asked.answer(lambda page: _show_health(page, asked.found, asked.now_us))
    if not ill:
        return answer
    hint = "palyra auth rotate ID gives a profile another key"
    if asked.found.vault.state not in ("open", "empty"):
        hint = "palyra vault status says what is wrong with the vault"
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


@click.command(
    "explain",
    cls=Command,
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
                verdict_words(one.verdict, one.until_us, now_us),
            )
            for one in found.candidates
        ]
        page.table([Column("#"), Column("ID", is_cut=True), Column("VERDICT")], rows)
