"""Figures as people read them, and text that cannot command a terminal."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.cli.page import Column, Page, Styled, is_colourful
from palyra.cli.render import (
    ago,
    clean,
    clock,
    clock_ms,
    count,
    counted,
    cut,
    duration,
    instant,
    instant_ms,
    ms_text,
    share,
    size,
    width_of,
)
from palyra.engine.zones import find_zone, midnight_us

S, MIN, H, D = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
NOON_US = 1_795_000_003_120_000  # 2026-11-18 11:06:43.12Z


def test_figures_have_units() -> None:
    """Counts have separators, sizes and durations the unit that reads well."""
    assert count(12_345) == "12,345"
    assert (counted(1, "run"), counted(2, "run"), counted(0, "entry", "entries")) == (
        "1 run",
        "2 runs",
        "0 entries",
    )
    assert [size(value) for value in (0, 1_023, 1_024, 1_536, 200 << 10, 24 << 20, 3 << 30, 5 << 40)] == [
        *("0 B", "1023 B", "1 KiB", "1.5 KiB", "200 KiB", "24 MiB", "3 GiB", "5 TiB")
    ]
    assert size(9_000 << 40) == "9000 TiB"
    assert [share(part, 1_000) for part in (0, 1, 500, 999, 1_000)] == ["0 %", "1 %", "50 %", "99 %", "100 %"]
    assert share(0, 0) == ""
    assert (ms_text(150), ms_text(2_500)) == ("150 ms", "2.5 s")


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "0.0 ms"),
        (850, "0.8 ms"),
        (340_000, "340 ms"),
        (1_200_000, "1.2 s"),
        (2 * S, "2 s"),
        (42 * S, "42 s"),
        (3 * MIN + 5 * S, "3 min 5 s"),
        (2 * H + 14 * MIN, "2 h 14 min"),
        (5 * D + 3 * H, "5 d 3 h"),
        (400 * D, "400 d"),
    ],
)
def test_durations(us: int, text: str) -> None:
    """A duration shows two figures at most."""
    assert duration(us) == text


def test_distances() -> None:
    """What was is ago, what comes is in; less than a second is now."""
    assert [ago(NOON_US - us, NOON_US) for us in (0, 900_000, 12 * S, 3 * MIN, 7 * H, 5 * D)] == [
        *("just now", "just now", "12 s ago", "3 min ago", "7 h ago", "5 d ago")
    ]
    assert ago(NOON_US + 12 * S, NOON_US) == "in 12 s"


def test_instants_name_their_offset() -> None:
    """An instant says which zone it is in, and one that no calendar has is shown as its number."""
    utc, prague = find_zone("UTC"), find_zone("Europe/Prague")
    assert find_zone("local") is None
    assert clock(NOON_US, utc) == "11:06:43Z"
    assert clock(NOON_US, prague) == "12:06:43+01:00"
    assert clock_ms(NOON_US, utc) == "11:06:43.120Z"
    assert instant(NOON_US, utc) == "2026-11-18 11:06:43Z"
    assert instant_ms(NOON_US, prague) == "2026-11-18 12:06:43.120+01:00"
    assert instant(2**62, utc) == f"{2**62} us"


def test_a_day_begins_at_its_own_midnight() -> None:
    """Midnight is that of the zone, also on the day on which its offset changes."""
    assert midnight_us(NOON_US, find_zone("UTC")) == NOON_US - NOON_US % D
    assert clock(midnight_us(NOON_US, find_zone("Europe/Prague")), find_zone("Europe/Prague")) == "00:00:00+01:00"
    changed_us = 1_792_886_400_000_000 + 12 * H  # 2026-10-25, the end of summer time
    assert instant(midnight_us(changed_us, find_zone("Europe/Prague")), find_zone("Europe/Prague")) == (
        "2026-10-25 00:00:00+02:00"
    )
    assert midnight_us(NOON_US, None) <= NOON_US


@given(st.text() | st.text(alphabet="\x00\x1b\x7f\x85\x9b\u202e\u2066\u2028\ufeff\ud800a"))
@settings(max_examples=200)
def test_clean_text_commands_nothing(text: str) -> None:
    """After cleaning no control, no mark of direction and no half of a pair is left, and the rest is unchanged."""
    cleaned = clean(text)
    assert all(unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp") for char in cleaned)
    assert not set(cleaned) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u200e\u200f")
    if text.isascii() and text.isprintable():
        assert cleaned == text


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs"])), st.integers(1, 30))
@settings(max_examples=100)
def test_cut_text_fits(text: str, columns: int) -> None:
    """A cut text takes no more columns than there are, and one that fits is left alone."""
    shown = cut(clean(text), columns)
    assert width_of(shown) <= columns
    assert shown == clean(text) or shown.endswith("…")


def test_wide_characters_take_two_columns() -> None:
    """Tables stay aligned with wide and combining characters."""
    assert (width_of("日本"), width_of("e\u0301"), width_of("é")) == (4, 1, 1)


class _Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "setting", "wanted"),
    [
        (_Terminal(), {}, "auto", True),
        (io.StringIO(), {}, "auto", False),
        (_Terminal(), {"NO_COLOR": "1"}, "always", False),
        (_Terminal(), {"NO_COLOR": ""}, "auto", True),
        (_Terminal(), {"TERM": "dumb"}, "auto", False),
        (_Terminal(), {}, "never", False),
        (io.StringIO(), {}, "always", True),
        (io.StringIO(), {"CLICOLOR_FORCE": "1"}, "never", True),
        (io.StringIO(), {"CLICOLOR_FORCE": "0"}, "auto", False),
        (io.StringIO(), {"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, "auto", False),
    ],
)
def test_when_to_colour(stream: io.StringIO, environ: dict[str, str], setting: str, wanted: bool) -> None:
    """NO_COLOR wins, then CLICOLOR_FORCE, then the setting, then what the stream is."""
    assert is_colourful(stream, environ, setting) is wanted


def _printed(columns: int | None, monkeypatch: pytest.MonkeyPatch) -> tuple[Page, io.StringIO]:
    stream = io.StringIO() if columns is None else _Terminal()
    monkeypatch.setenv("COLUMNS", str(columns or 80))
    monkeypatch.setenv("NO_COLOR", "1")
    return Page(stream), stream


def test_a_table_is_cut_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow terminal loses spare columns first, then ends of long cells; a file loses nothing."""
    columns = [
        Column("NAME"),
        Column("N", align="right"),
        Column("TEXT", is_cut=True),
        Column("SPARE", spare=1),
        Column("EMPTY"),
    ]
    rows = [("first", "1", "x" * 60, "s" * 30, ""), ("second", "1,234", "y", "s", "")]
    page, stream = _printed(None, monkeypatch)
    page.table(columns, rows)
    assert stream.getvalue().splitlines()[1] == f"first       1  {'x' * 60}  {'s' * 30}"
    assert "EMPTY" not in stream.getvalue()
    page, stream = _printed(40, monkeypatch)
    page.table(columns, rows)
    assert stream.getvalue().splitlines() == [
        "NAME        N  TEXT",
        f"first       1  {'x' * 24}…",
        "second  1,234  y",
    ]
    page, stream = _printed(10, monkeypatch)
    page.table(columns, rows)
    assert "xxxxxxx…" in stream.getvalue()


def test_a_table_without_rows_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even its titles."""
    page, stream = _printed(None, monkeypatch)
    page.table([Column("NAME")], [])
    assert stream.getvalue() == ""


def test_values_go_on_below_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long value is wrapped under its own beginning on a terminal, and stays one line in a file."""
    page, stream = _printed(30, monkeypatch)
    page.fields([("name", "one two three four five six"), ("b", [Styled("x", "bold"), " y"])])
    assert stream.getvalue() == "name  one two three four five\n      six\nb     x y\n"
    page, stream = _printed(30, monkeypatch)
    page.fields([("name", ["one two three four", " ", Styled("→", "accent"), " ", "sixteen", "th"])])
    assert stream.getvalue() == "name  one two three four →\n      sixteenth\n"
    page, stream = _printed(None, monkeypatch)
    page.fields([("name", "word " * 40)])
    assert stream.getvalue().count("\n") == 1
    page.fields([])


def test_ascii_where_there_is_no_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is not UTF-8 gets ASCII, never an encoding error."""
    monkeypatch.setenv("NO_COLOR", "1")
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    Page(stream).line("a · b → c … d 日")
    stream.flush()
    assert raw.getvalue() == b"a - b -> c ~ d \\u65e5\n"
