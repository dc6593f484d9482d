"""The report as a page: complete in one file, asking nobody for anything, obeying nothing that was recorded."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from budget_kit import price, put, rule
from cli_world import Cli, build
from story import admit, given, record, serve

from palyra.events.runs import RunRefused
from palyra.units import US_PER_S

#: Ends a script, opens a tag, breaks out of an attribute, names a mark of the template.
HOSTILE = "</script><img src=http://evil.example/x onerror=alert(1)>\"'&<!--BODY--><!--CHARTS-->"
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report over requests of an agent with a hostile name, under a rule."""
    directory = tmp_path_factory.mktemp("page")
    world = given(
        None,
        price(),
        put(rule("each-day")),
        serve("r1", agent_id=HOSTILE, session_id=HOSTILE),
        serve("r2", agent_id="coder"),
        admit("r3"),
        record("run-r4", RunRefused(code="budget_blocked", http_status=429, endpoint="chat")),
    )
    build(directory / "state", world)
    cli = Cli(directory / "state", world.now_us + 10 * US_PER_S)
    ran = cli("usage", "report", "--format", "html", "--out", str(directory / "report.html"))
    assert (ran.status, ran.err) == (0, "")
    return directory / "report.html"


def test_everything_that_was_recorded_is_text(page: Path) -> None:
    """A name with tags, quotes and marks of the template appears as what it is, and nowhere as anything else."""
    text = page.read_text("utf-8")
    assert len(re.findall(r"</script", text)) == 3
    assert "<img" not in text.replace("plotly", "").rpartition("</script>")[0].partition("<script>")[0]
    assert "&lt;/script&gt;&lt;img src=http://evil.example/x" in text
    data = re.search(r'<script id="charts" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    charts = json.loads(data[1])
    assert [chart["id"] for chart in charts][:3] == ["chart-spend", "chart-tokens", "chart-mix"]
    agents = next(chart for chart in charts if chart["id"] == "chart-agents")
    assert any(label.startswith("&lt;/script&gt;") for label in agents["labels"])


def test_the_page_says_all_that_it_should(page: Path) -> None:
    """Spend, tokens, models, agents, sessions, budgets with holds, refusals; a table under each chart."""
    text = page.read_text("utf-8")
    for title in ("Spend per day", "Tokens by class", "Tokens by model", "Agents that cost most", "Sessions that"):
        assert title in text
    assert 'class="gauge"' in text
    assert "each-day · key:tester" in text
    assert "budget_blocked" in text
    assert text.count('<div class="chart') == text.count("<details>") - 1  # that of the budgets has gauges


def test_the_page_names_no_other_place(page: Path) -> None:
    """No link, no import, no font: and the page's own policy forbids to load any."""
    text = page.read_text("utf-8")
    own = re.sub(r"<script>.*?</script>", "", text, count=1, flags=re.DOTALL)
    assert not re.search(r"<(?:link|iframe|object|embed|script[^>]+src)", own)
    assert not re.search(r"\b(?:src|href)\s*=\s*[\"']", own)
    assert "default-src 'none'" in own


def test_what_a_page_does_not_take_is_refused(day: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells everything, so there is nothing to choose; a terminal cannot show it; a missing extra is named."""
    assert day("usage", "report", "--format", "html", "--group-by", "model").status == 2
    assert "terminal" in day("usage", "report", "--format", "html", columns=80).err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = day("usage", "report", "--format", "html")
    assert (ran.status, "palyra[reports]" in ran.err) == (5, True)


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="there is no Chromium here")
def test_a_browser_draws_it_and_asks_for_nothing(page: Path, tmp_path: Path) -> None:
    """Drawn without network, the charts are there, and the hostile name is a text in the tree."""
    assert CHROMIUM is not None
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --virtual-time-budget=4000 --dump-dom"
    command = [CHROMIUM, *flags.split(), "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}"]
    ran = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=50)
    body = re.sub(r"<script.*?</script>", "", ran.stdout, flags=re.DOTALL)
    assert body.count('class="main-svg"') >= 5
    assert "<img" not in body
