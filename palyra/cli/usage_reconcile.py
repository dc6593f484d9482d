"""`palyra usage reconcile`, `correct` and `verify`: what was counted, beside what others say and beside itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palyra.cli.command import Call, make_sure
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import clean, count, counted, instant, usd

if TYPE_CHECKING:
    from palyra.engine.console.corrections import CorrectAnswer
    from palyra.engine.reports.reconcile import Reconciled
    from palyra.engine.reports.verify import UsageVerified
    from palyra.errors import PalyraError

#: An export is read whole.
_EXPORT_MAX_BYTES = 256 << 20
#: Differences that are shown to people.
_SHOWN_COUNT = 20
#: Less than this is what rounding leaves.
_SMALL_NANOUSD = 100_000
#: Corrections that go in one call.
_BATCH_COUNT = 500
_WORDS = {
    "missing_here": "spent outside Palyra",
    "missing_there": "not in the account",
    "token_mismatch": "other tokens",
    "price_mismatch": "another price",
    "late": "at the edge of the account",
    "unfinished": "estimated or cut here",
    "unpriced": "without a price here",
}


def reconcile_export(
    call: Call,
    *,
    file: str,
    provider_id: str,
    form: str,
    columns: str,
    timezone: str,
    tolerance_bp: int,
    apply: bool,
) -> Answer:
    """Put a provider's account beside the journal; write corrections where that is asked for."""
    from palyra.cli.progress import Progress
    from palyra.cli.reading import Journal
    from palyra.engine.codec import to_known
    from palyra.engine.replay import fold_file
    from palyra.engine.reports.exports import read_export
    from palyra.engine.reports.exports_csv import FIELDS
    from palyra.engine.reports.reconcile import ours_of, reconcile
    from palyra.engine.zones import find_zone
    from palyra.errors import PalyraError

    path = Path(file)
    if path.stat().st_size > _EXPORT_MAX_BYTES:
        raise PalyraError("The export is larger than 256 MiB; cut it into months.", code="invalid_export")
    mapping = dict(part.partition("=")[::2] for part in columns.split(",") if part)
    if unknown := [field for field in mapping.values() if field not in FIELDS]:
        message = f"'{unknown[0]}' is nothing that a column can mean; {', '.join(FIELDS)} are."
        raise PalyraError(message, hint="--map their_column=field,..", code="usage_error")
    try:
        zone = find_zone(timezone)
    except ValueError as exc:
        raise PalyraError(str(exc), code="usage_error") from exc
    by_field = {field: column for column, field in mapping.items()}
    theirs = read_export(path.read_bytes(), form, columns=by_field, zone=zone)  # type: ignore[arg-type]
    names = ["attempt.started", "attempt.succeeded", "usage.recorded", "usage.corrected"]
    journal = Journal(call)
    with journal.rows() as rows, Progress() as progress:
        head = rows.head().position
        state = fold_file(journal.paths.journal, upto=head, progress=lambda *at: progress("folding", *at)).state
        if not any(one.provider_id == provider_id for one in state.catalog.registry.providers):
            raise PalyraError(f"There is no provider '{provider_id}'.", code="provider_not_found")
        facts = (to_known(row) for batch in rows.rows(0, head, names) for row in batch)
        ours = ours_of(facts, provider_id)
        journal_id = rows.journal_id
    found = reconcile(state, theirs, ours, provider_id=provider_id, tolerance_bp=tolerance_bp)
    applied_count = _apply(call, found) if apply and found.correctable else 0
    failure: PalyraError | None = None
    if not found.is_within:
        failure = PalyraError("The drift is beyond the tolerance.", code="drift_found")
    data = {"applied_count": applied_count, **_plain(found)}

    def show(page: Page) -> None:
        _show(page, found, applied_count, apply)

    return journal.answer(journal_id, head, data, show, failure=failure)


def _plain(found: Any) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain


def _apply(call: Call, found: Reconciled) -> int:
    """Write what rows were by the account; returns how many were otherwise."""
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import USAGE_CORRECT
    from palyra.engine.console.corrections import CorrectParams, Wish

    wishes = [
        Wish(position=one.position, usage=one.usage, cost_after_nanousd=one.cost_nanousd)
        for one in found.correctable
    ]
    written = 0
    for first in range(0, len(wishes), _BATCH_COUNT):
        params = CorrectParams(corrections=wishes[first : first + _BATCH_COUNT], reason="reconciled", apply=True)
        written += len(change(call, USAGE_CORRECT, params).found.items)
    return written


def _show(page: Page, found: Reconciled, applied_count: int, apply: bool) -> None:
    within = Styled("within", "good") if found.is_within else Styled("beyond", "bad")
    percent = f"{abs(found.drift_bp) / 100:.2f} %"
    page.fields(
        [
            ("account", f"{instant(found.from_us, page.zone)} to {instant(found.to_us, page.zone)}"),
            ("theirs", usd(found.theirs_nanousd)),
            ("ours", usd(found.ours_nanousd)),
            ("drift", [f"{usd(found.drift_nanousd)} ({percent}), ", within, f" {found.tolerance_bp / 100:g} %"]),
        ]
    )
    if found.classes:
        page.title("What it is made of")
        rows = [
            (one.kind, count(one.count), usd(one.amount_nanousd), f"{one.share_bp / 100:.0f} %", _WORDS[one.kind])
            for one in found.classes
        ]
        columns = [Column("CLASS"), Column("COUNT", align="right"), Column("AMOUNT", align="right")]
        page.table([*columns, Column("SHARE", align="right"), Column("MEANING", spare=1)], rows)
        page.title("Differences")
        large = [one for one in found.differences if abs(one.amount_nanousd) >= _SMALL_NANOUSD]
        shown = (large or found.differences)[:_SHOWN_COUNT]
        columns = [
            Column("CLASS"),
            Column("AT"),
            Column("MODEL", is_cut=True, least=16),
            Column("AMOUNT", align="right"),
            Column("THERE", align="right"),
            Column("HERE", align="right"),
            Column("POSITIONS", is_cut=True, spare=1, least=10),
        ]
        lines = [
            (
                one.kind,
                instant(one.start_us, page.zone),
                one.model,
                usd(one.amount_nanousd),
                "" if one.tokens_there is None else count(one.tokens_there),
                "" if one.tokens_here is None else count(one.tokens_here),
                ", ".join(map(str, one.positions[:3])) + (f" +{one.rows_count - 3}" if one.rows_count > 3 else ""),
            )
            for one in shown
        ]
        page.table(columns, lines)
        if len(found.differences) > len(shown):
            left = found.differences[len(shown) :]
            amount = usd(sum(one.amount_nanousd for one in left))
            page.line(Styled(f"and {counted(len(left), 'smaller one')}, {amount} together", "dim"))
    page.line()
    if apply:
        page.line(f"{counted(applied_count, 'row')} corrected")
    elif found.correctable:
        page.line(f"{counted(len(found.correctable), 'row')} can be corrected by the account: --apply")
    else:
        page.line(Styled("No row stands alone against its line in the account, so none can be corrected.", "dim"))


def correct_row(call: Call, *, usage_id: str, cost_usd: str, reason: str, is_sure: bool) -> Answer:
    """Correct one row by hand, shown before it is written."""
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import USAGE_CORRECT
    from palyra.engine.console.corrections import CorrectParams

    wish = _wish(usage_id, cost_usd)
    params = CorrectParams(corrections=[wish], note_code=reason)
    before = change(call, USAGE_CORRECT, params)
    if not before.found.items:
        return before.answer(lambda page: page.line("It costs that already."))
    if not is_sure:
        if sys.stdin.isatty():
            _show_corrected(Page(sys.stderr), before.found)
        make_sure("The row will cost this in every report and budget.")
    done = change(call, USAGE_CORRECT, CorrectParams(corrections=[wish], note_code=reason, apply=True))
    return done.answer(lambda page: _show_corrected(page, done.found))


def _wish(usage_id: str, cost_usd: str) -> Any:
    from decimal import InvalidOperation

    from palyra.engine.console.corrections import Wish
    from palyra.engine.reports.exports_cells import nanousd_of
    from palyra.errors import PalyraError

    try:
        cost = None if cost_usd == "unknown" else nanousd_of(cost_usd.removeprefix("$"))
        if cost is not None and cost < 0:
            raise ValueError
    except (InvalidOperation, ValueError, OverflowError):
        message = f"'{cost_usd}' is no amount; write 0.0213, or unknown."
        raise PalyraError(message, code="usage_error") from None
    if usage_id.isdigit():
        return Wish(position=int(usage_id), cost_after_nanousd=cost)
    run_id, _, attempt = usage_id.partition("/")
    if attempt and not attempt.isdigit():
        raise PalyraError(f"'{usage_id}' is no row of usage; write RUN, RUN/2 or a position.", code="usage_error")
    return Wish(run_id=run_id, attempt=int(attempt or 1), cost_after_nanousd=cost)


def _show_corrected(page: Page, found: CorrectAnswer) -> None:
    def money(amount: int | None) -> str:
        return "unknown" if amount is None else usd(amount)

    for one in found.items:
        page.fields(
            [
                ("row", f"position {count(one.position)} · run {clean(one.run_id)}, attempt {one.attempt}"),
                ("model", f"{one.model_id} at {one.provider_id}"),
                ("cost before", money(one.cost_before_nanousd)),
                ("cost after", money(one.cost_after_nanousd)),
            ]
        )


def verify_rows(call: Call) -> Answer:
    """Check that rows cost what they say, and that sums are those of their rows."""
    from palyra.cli.progress import Progress
    from palyra.cli.reading import Journal
    from palyra.engine.replay import fold_file
    from palyra.engine.reports.verify import verify_usage
    from palyra.errors import PalyraError

    journal = Journal(call)
    with journal.rows() as rows, Progress() as progress:
        head, journal_id = rows.head().position, rows.journal_id
        state = fold_file(journal.paths.journal, upto=head, progress=lambda *at: progress("folding", *at)).state
        found = verify_usage(rows, state, journal.now_us, lambda *at: progress("checking", *at))
    failure = None
    if found.finding is not None:
        where = found.finding.subject if found.finding.position is None else f"position {found.finding.position}"
        failure = PalyraError(f"Usage is not what it should be at {where}.", code="usage_differs")
    return journal.answer(
        journal_id, head, _plain(found), lambda page: _show_verified(page, found), failure=failure
    )


def _show_verified(page: Page, found: UsageVerified) -> None:
    page.fields(
        [
            ("rows", f"{count(found.rows_count)}, and {counted(found.corrections_count, 'correction')}"),
            ("windows", count(found.windows_count)),
        ]
    )
    finding = found.finding
    if finding is None:
        page.line(Styled("Every row costs what its tokens do, and every sum is that of its rows.", "good"))
        return
    told = ["unknown" if amount is None else count(amount) for amount in (finding.expected, finding.found)]
    page.line()
    page.line(
        Styled(finding.code.replace("_", " "), "bad"), f" {finding.subject}: {told[0]} expected, {told[1]} found"
    )
