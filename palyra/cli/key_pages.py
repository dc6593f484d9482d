"""How client keys are shown, and how a new one is handed to whoever wanted it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Piece, Styled
from palyra.cli.render import ago, count, instant

if TYPE_CHECKING:
    from palyra.cli.asking import Asked
    from palyra.engine.console.keys import KeyAnswer, KeyView

_STATUS_STYLE = {"active": "good", "rotating": "warn", "expired": "bad", "revoked": "dim"}
_SECRET_FIRST = "It is shown this once; nobody can read it again."


def place_of(out: str | None) -> Path | None:
    """Return the file that a new key is to go to, if any; raises `StateError` before there is one to lose."""
    if out is None:
        return None
    from palyra.auth.keyfiles import check_place

    path = Path(out).expanduser().absolute()
    check_place(path)
    return path


def hand_over(done: Asked[KeyAnswer], place: Path | None, *, is_sk_form: bool, rule: str = "") -> Answer:
    """Give a new key to whoever wanted it: on the screen, or in a file and nowhere else.

    `rule` tells of the budget that was made for it.
    """
    found = done.found
    secret = found.secret and (f"sk-{found.secret}" if is_sk_form else found.secret)
    if place is None or secret is None:
        data = {**done.data, "secret": secret}
        return done._replace(data=data).answer(lambda page: _show_secret(page, found, secret, done.now_us, rule))
    from palyra.auth.keyfiles import write_key_file
    from palyra.redaction import Secret

    write_key_file(place, Secret(secret))

    def show(page: Page) -> None:
        show_key(page, found.key, done.now_us, rule)
        page.fields([("written to", Styled(str(place), "bold"))])

    return done._replace(data={**done.data, "secret": None, "file": str(place)}).answer(show)


def _show_secret(page: Page, found: KeyAnswer, secret: str | None, now_us: int, rule: str) -> None:
    show_key(page, found.key, now_us, rule)
    page.line()
    if secret is None:
        page.line(Styled("This was done before; whoever got the first answer has the key.", "warn"))
        return
    page.line(Styled(secret, "bold"))
    page.line(Styled(_SECRET_FIRST, "dim"))


def show_list(page: Page, found: list[KeyView], now_us: int) -> None:
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
            status_piece(one.status),
            _rights(one),
            one.principal,
            _limit_words(one),
            ago(one.last_used_us, now_us) if one.last_used_us else "",
        )
        for one in found
    ]
    page.table(columns, rows)


def show_key(page: Page, one: KeyView, now_us: int, rule: str = "") -> None:
    def when(us: int | None, otherwise: str) -> str:
        return f"{instant(us, page.zone)} ({ago(us, now_us)})" if us is not None else otherwise

    page.line(Styled(one.name, "bold"), f" · {one.kind} key {one.key_id} · ", status_piece(one.status))
    rows = [
        ("may", " ".join(one.scopes) or "nothing"),
        ("pays", one.principal),
        ("agents", " ".join(one.agents) + (f" · default {one.default_agent}" if one.default_agent else "")),
        ("session", one.session or ""),
        ("models", "" if one.models == ["*"] else " ".join(one.models)),
        ("from", " ".join(one.allowed_cidrs)),
        ("limits", _limit_words(one)),
        ("budget", rule),
        ("expires", when(one.expires_us, "")),
        ("rotated", f"{one.successor_id} has its place" if one.successor_id else ""),
        ("works until", when(one.grace_until_us, "")),
        ("issued", f"{when(one.created_us, '')} by {one.issued_by}"),
        ("used", when(one.last_used_us, "never")),
    ]
    page.fields([row for row in rows if row[1]])


def status_piece(status: str) -> Piece:
    return Styled(status, _STATUS_STYLE[status])


def _rights(one: KeyView) -> str:
    """Return what a key may do, short enough for a list."""
    from palyra.decisions.keys import DEFAULT_SCOPES

    is_admin = one.kind == "admin" and set(one.scopes) == set(DEFAULT_SCOPES["admin"])
    return "all of an operator" if is_admin else " ".join(one.scopes) or "nothing"


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
