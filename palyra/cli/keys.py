"""`palyra keys`: who may call the gateway, and what each of them may do."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Piece, Styled
from palyra.cli.render import ago, count, instant

if TYPE_CHECKING:
    from palyra.cli.asking import Asked
    from palyra.engine.console.keys import KeyAnswer, KeyView

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_STATUS_STYLE = {"active": "good", "rotating": "warn", "expired": "bad", "revoked": "dim"}
_SECRET_FIRST = "It is shown this once; nobody can read it again."


class Duration(click.ParamType[int]):
    """A time such as 30d, 12h, 90m or 45s; in microseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"([0-9]{1,6})([smhd])", str(value))
        if found is None:
            self.fail(f"'{value}' is no time; write it as 30d, 12h, 90m or 45s.", param, ctx)
        return int(found[1]) * _UNITS_S[found[2]] * 1_000_000


@click.group(
    cls=Group,
    examples=[
        ("palyra keys issue ci --scope v1:chat --rpm 60", "a key for one program"),
        ("palyra keys list", "all keys that open something"),
        ("palyra keys revoke ci --now", "end it, and its open requests"),
    ],
)
def keys() -> None:
    """Issue, limit, rotate and revoke the keys of programs and people."""


def _limits(command: Any) -> Any:
    for name, help_ in (
        ("--concurrent", "Requests that may be open at once; 0 for no limit."),
        ("--tpm", "Tokens a minute; 0 for no limit."),
        ("--burst", "Requests that may come at once; 0 for a minute's."),
        ("--rpm", "Requests a minute; 0 for no limit."),
    ):
        command = click.option(name, type=click.IntRange(min=0), metavar="N", help=help_)(command)
    return command


def _handed_over(command: Any) -> Any:
    for option in (
        click.option("--sk-form", "is_sk_form", is_flag=True, help="Put sk- before it, as some SDKs want."),
        click.option("--out", metavar="FILE", help="Write it to this file, for you alone, and do not print it."),
    ):
        command = option(command)
    return command


@keys.command(
    "issue",
    examples=[
        ("palyra keys issue ci", "a key for one program, which pays for itself"),
        ("palyra keys issue ci --scope v1:chat --model 'gpt-*' --rpm 60 --tpm 100000", "with bounds"),
        ("palyra keys issue bot --agent coder --expires 30d --out ~/bot.key", "as one agent, for a month"),
        ("palyra keys issue guest --budget usd=5/daily", "a key that stops for the day at five dollars"),
        ("palyra keys issue ada --admin --scope observe", "a key that only looks"),
    ],
    exits=(0, 2, 4, 6, 7),
    is_change=True,
)
@click.argument("name", metavar="NAME")
@click.option("--admin", "is_admin", is_flag=True, help="A key for an operator, not for programs.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="What it may do; can be repeated.")
@click.option("--principal", default="", metavar="user:NAME", help="Who pays, where several keys share that.")
@click.option("--agent", "agents", multiple=True, metavar="ID", help="An agent that it may act as, or '*'.")
@click.option("--default-agent", default="", metavar="ID", help="The agent of requests that name none.")
@click.option("--session", default="", metavar="NAME", help="Put every request into this session.")
@click.option("--model", "models", multiple=True, metavar="GLOB", help="A model that it may use; can be repeated.")
@click.option("--from", "networks", multiple=True, metavar="CIDR", help="A network that it may be used from.")
@_limits
@click.option(
    "--budget", default="", metavar="LIMIT", help="A hard limit of its own: usd=5/daily, tokens=1000/weekly."
)
@click.option("--expires", type=Duration(), metavar="TIME", help="Until when, from now: 30d, 12h.")
@_handed_over
def issue(
    call: Call,
    name: str,
    is_admin: bool,
    scopes: tuple[str, ...],
    principal: str,
    agents: tuple[str, ...],
    default_agent: str,
    session: str,
    models: tuple[str, ...],
    networks: tuple[str, ...],
    rpm: int | None,
    burst: int | None,
    tpm: int | None,
    concurrent: int | None,
    budget: str,
    expires: int | None,
    out: str | None,
    is_sk_form: bool,
) -> Answer:
    """Make a key. Without options it may do all that programs do, and pays for itself."""
    from palyra.cli.asking import change
    from palyra.engine.clock import SystemClock
    from palyra.engine.console.keys import IssueParams
    from palyra.engine.console.table import KEY_ISSUE

    params = IssueParams(
        name=name,
        kind="admin" if is_admin else "client",
        scopes=list(scopes) or None,
        principal=principal,
        agents=list(agents),
        default_agent=default_agent,
        session=session,
        models=list(models) or None,
        allowed_cidrs=list(networks),
        requests_per_minute=rpm or 0,
        burst=burst or 0,
        tokens_per_minute=tpm or 0,
        concurrent_runs=concurrent or 0,
        expires_us=None if expires is None else SystemClock().now_us() + expires,
        budget=budget,
    )
    return _hand_over(change(call, KEY_ISSUE, params), out, is_sk_form=is_sk_form)


@keys.command(
    "list",
    examples=[
        ("palyra keys list", "keys that open something"),
        ("palyra keys list --all", "those that open nothing any more, too"),
        ("palyra keys list --as-of -7d", "a week ago"),
    ],
    exits=(0, 2, 5, 7),
    takes_as_of=True,
)
@click.option("--all", "is_all", is_flag=True, help="Also expired and revoked ones.")
def list_keys(call: Call, is_all: bool) -> Answer:
    """Show keys, oldest first."""
    from palyra.cli.asking import ask_all
    from palyra.engine.console.keys import KeysParams
    from palyra.engine.console.table import KEYS

    asked = ask_all(call, KEYS, KeysParams(limit=500, all=is_all))
    return asked.answer(lambda page: _show_list(page, asked.found.items, asked.now_us))


@keys.command(
    "show",
    examples=[
        ("palyra keys show ci", "by its name"),
        ("palyra keys show 0h3k9m2p4r6t --json", "by its id, for a program"),
        ("palyra keys show ci --as-of -1d", "as it was yesterday"),
    ],
    exits=(0, 2, 5, 7, 8),
    takes_as_of=True,
)
@click.argument("key", metavar="KEY")
def show(call: Call, key: str) -> Answer:
    """Show one key: what it may do, its limits, its use. KEY is its id, or the name of a live one."""
    from palyra.cli.asking import ask
    from palyra.engine.console.keys import KeyParams
    from palyra.engine.console.table import KEY

    asked = ask(call, KEY, KeyParams(key=key))
    return asked.answer(lambda page: _show_key(page, asked.found, asked.now_us))


@keys.command(
    "limits",
    examples=[
        ("palyra keys limits ci --rpm 30", "another limit; the others stay"),
        ("palyra keys limits ci --rpm 0 --tpm 0", "none any more"),
        ("palyra keys limits ci --scope v1:chat --expires 7d", "fewer rights, for a week"),
    ],
    exits=(0, 2, 4, 6, 7, 8),
    is_change=True,
)
@click.argument("key", metavar="KEY")
@click.option("--name", metavar="NAME", help="Another name.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="What it may still do; never more.")
@_limits
@click.option("--expires", type=Duration(), metavar="TIME", help="Until when, from now: 30d, 12h.")
@click.option("--never-expires", "is_endless", is_flag=True, help="It does not expire.")
def limits(
    call: Call,
    key: str,
    name: str | None,
    scopes: tuple[str, ...],
    rpm: int | None,
    burst: int | None,
    tpm: int | None,
    concurrent: int | None,
    expires: int | None,
    is_endless: bool,
) -> Answer:
    """Change what may change of a key; it acts on the next request."""
    import msgspec

    from palyra.cli.asking import change
    from palyra.engine.clock import SystemClock
    from palyra.engine.console.keys import ChangeParams
    from palyra.engine.console.table import KEY_CHANGE

    if is_endless and expires is not None:
        raise click.UsageError("--expires excludes --never-expires", click.get_current_context())
    until: int | msgspec.UnsetType | None = None if is_endless else msgspec.UNSET
    params = ChangeParams(
        key=key,
        name=name,
        scopes=list(scopes) or None,
        requests_per_minute=rpm,
        burst=burst,
        tokens_per_minute=tpm,
        concurrent_runs=concurrent,
        expires_us=until if expires is None else SystemClock().now_us() + expires,
    )
    done = change(call, KEY_CHANGE, params)
    return done.answer(lambda page: _show_key(page, done.found, done.now_us))


@keys.command(
    "rotate",
    examples=[
        ("palyra keys rotate ci", "a new key; the old one ends at once"),
        ("palyra keys rotate ci --grace 1h --out ~/ci.key", "both work for an hour"),
        ("palyra keys rotate client.key", "the one of this machine's programs; its file gets the new one"),
    ],
    exits=(0, 2, 4, 6, 7, 8),
    is_change=True,
)
@click.argument("key", metavar="KEY")
@click.option("--grace", type=Duration(), default="0s", metavar="TIME", help="How long the old one works.")
@_handed_over
def rotate(call: Call, key: str, grace: int, out: str | None, is_sk_form: bool) -> Answer:
    """Put a new key in a key's place, with the same rights, limits and payer."""
    from palyra.cli.asking import change
    from palyra.engine.console.keys import RotateParams
    from palyra.engine.console.table import KEY_ROTATE

    done = change(call, KEY_ROTATE, RotateParams(key=key, grace_ms=grace // 1_000))
    return _hand_over(done, out, is_sk_form=is_sk_form)


@keys.command(
    "revoke",
    examples=[
        ("palyra keys revoke ci", "it opens nothing from now on; open requests finish"),
        ("palyra keys revoke ci --now --reason 'laptop lost'", "they end too"),
    ],
    exits=(0, 2, 4, 6, 7, 8),
    is_change=True,
    destroys="The key opens nothing from now on, and cannot be given back.",
)
@click.argument("key", metavar="KEY")
@click.option("--now", "is_now", is_flag=True, help="End its open requests too.")
@click.option("--reason", default="", metavar="TEXT", help="What is to stand in the journal about it.")
def revoke(call: Call, key: str, is_now: bool, reason: str) -> Answer:
    """End a key for good."""
    from palyra.cli.asking import change
    from palyra.engine.console.keys import RevokeParams
    from palyra.engine.console.table import KEY_REVOKE

    done = change(call, KEY_REVOKE, RevokeParams(key=key, now=is_now, reason=reason))
    return done.answer(
        lambda page: page.line(
            Styled(done.found.name, "bold"), f" ({done.found.key_id}) ", _status(done.found.status)
        )
    )


@keys.command(
    "whoami",
    examples=[
        ("palyra keys whoami", "whose the key in OPENAI_API_KEY is"),
        ("palyra keys whoami --key-env CI_KEY", "the one in another variable"),
        ("palyra keys whoami --key-stdin", "one that is typed or piped in"),
    ],
    exits=(0, 2, 3, 7),
)
@click.option("--key-env", default="OPENAI_API_KEY", metavar="NAME", help="Variable that holds the key.")
@click.option("--key-stdin", "is_stdin", is_flag=True, help="Read the key from standard input.")
def whoami(call: Call, key_env: str, is_stdin: bool) -> Answer:
    """Tell whose a key is, or why it opens nothing: mistyped, unknown, revoked or expired.

    It is read from a variable or from standard input, never from the command line.
    """
    from palyra.cli.reading import Journal
    from palyra.decisions.keys import authenticate
    from palyra.engine.console.keys import view_of
    from palyra.engine.replay import fold_file
    from palyra.errors import PalyraError, Refusal

    text = sys.stdin.readline() if is_stdin else os.environ.get(key_env, "")
    if not text.strip():
        where = "standard input" if is_stdin else key_env
        raise PalyraError(f"There is no key in {where}.", hint="palyra keys whoami --help", code="usage_error")
    journal = Journal(call)
    folded = fold_file(journal.paths.journal)
    caller = authenticate(folded.state, text.strip(), journal.now_us)
    if isinstance(caller, Refusal):
        raise PalyraError(caller.message, code=caller.code)
    view = view_of(folded.state.keys.by_id[caller.key_id], journal.now_us)
    return journal.answer(
        folded.journal_id, folded.state.position, view, lambda page: _show_key(page, view, journal.now_us)
    )


def _hand_over(done: Asked[KeyAnswer], out: str | None, *, is_sk_form: bool) -> Answer:
    """Give a new key to whoever wanted it: on the screen, or in a file and nowhere else."""
    found = done.found
    secret = found.secret and (f"sk-{found.secret}" if is_sk_form else found.secret)
    if out is None or secret is None:
        data = {**done.data, "secret": secret}
        return done._replace(data=data).answer(lambda page: _show_secret(page, found, secret, done.now_us))
    from palyra.auth.keyfiles import write_key_file
    from palyra.redaction import Secret

    path = Path(out).expanduser().absolute()
    write_key_file(path, Secret(secret))

    def show(page: Page) -> None:
        _show_key(page, found.key, done.now_us)
        page.fields([("written to", Styled(str(path), "bold"))])

    return done._replace(data={**done.data, "secret": None, "file": str(path)}).answer(show)


def _show_secret(page: Page, found: KeyAnswer, secret: str | None, now_us: int) -> None:
    _show_key(page, found.key, now_us)
    page.line()
    if secret is None:
        page.line(Styled("This was done before; whoever got the first answer has the key.", "warn"))
        return
    page.line(Styled(secret, "bold"))
    page.line(Styled(_SECRET_FIRST, "dim"))


def _show_list(page: Page, found: list[KeyView], now_us: int) -> None:
    columns = [
        Column("NAME", is_cut=True),
        Column("ID"),
        Column("KIND", spare=3),
        Column("STATUS"),
        Column("MAY", is_cut=True, spare=2),
        Column("PAYS", is_cut=True, spare=4),
        Column("LIMITS", is_cut=True, spare=1),
        Column("USED", spare=1),
    ]
    rows = [
        (
            one.name,
            one.key_id,
            one.kind,
            _status(one.status),
            " ".join(one.scopes) or "nothing",
            one.principal,
            _limit_words(one),
            ago(one.last_used_us, now_us) if one.last_used_us else "",
        )
        for one in found
    ]
    page.table(columns, rows)


def _show_key(page: Page, one: KeyView, now_us: int) -> None:
    def when(us: int | None, otherwise: str) -> str:
        return f"{instant(us, page.zone)} ({ago(us, now_us)})" if us is not None else otherwise

    page.line(Styled(one.name, "bold"), f" · {one.kind} key {one.key_id} · ", _status(one.status))
    rows = [
        ("may", " ".join(one.scopes) or "nothing"),
        ("pays", one.principal),
        ("agents", " ".join(one.agents) + (f" · default {one.default_agent}" if one.default_agent else "")),
        ("session", one.session or ""),
        ("models", "" if one.models == ["*"] else " ".join(one.models)),
        ("from", " ".join(one.allowed_cidrs)),
        ("limits", _limit_words(one)),
        ("expires", when(one.expires_us, "")),
        ("rotated", f"{one.successor_id} has its place" if one.successor_id else ""),
        ("works until", when(one.grace_until_us, "")),
        ("issued", f"{when(one.created_us, '')} by {one.issued_by}"),
        ("used", when(one.last_used_us, "never")),
    ]
    page.fields([row for row in rows if row[1]])


def _status(status: str) -> Piece:
    return Styled(status, _STATUS_STYLE[status])


def _limit_words(one: KeyView) -> str:
    words = [
        f"{count(number)} {what}"
        for number, what in (
            (one.requests_per_minute, "requests/min"),
            (one.burst, "at once"),
            (one.tokens_per_minute, "tokens/min"),
            (one.concurrent_runs, "open"),
        )
        if number
    ]
    return " · ".join(words)
