"""`palyra serve` as a process: it says when it is ready, is found by the other commands, and ends on a signal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

from cli_world import Cli

_ROOT = Path(__file__).parents[2]


def test_a_daemon_is_found_and_ends_cleanly(tmp_path: Path) -> None:
    """One JSON line says that it is ready; status and env find it; SIGTERM ends it with 0, as its log tells."""
    state = tmp_path / "state"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PALYRA_")}
    with (
        open(tmp_path / "log", "w+", encoding="utf-8") as log,
        subprocess.Popen(
            [sys.executable, "-m", "palyra", "serve", "--port", "0", "--state-dir", str(state)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**environ, "HOME": str(tmp_path)},
            cwd=_ROOT,
        ) as process,
    ):
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        cli = Cli(state, ready["position"] + 1_800_000_000_000_000)
        status = cli("status", "--json").data
        variables = cli("env", "--json").data["variables"]
        refused = cli("serve", "--port", "0")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        log.seek(0)
        assert [json.loads(line)["event"] for line in log][-2:] == ["stopping", "stopped"]
    assert (ready["event"], ready["found"], ready["state_dir"]) == ("daemon_ready", "new", str(state))
    assert status["daemon"]["phase"] == "ready"
    assert status["daemon"]["pid"] == process.pid
    assert variables["OPENAI_BASE_URL"] == f"{ready['url']}/v1"
    assert (refused.status, refused.err.splitlines()[-1]) == (7, "code: journal_locked · exit 7")
    assert cli("status", "--json").data["daemon"]["phase"] == "stopped"
    assert cli("journal", "verify", "--replay").status == 0


def test_a_terminal_is_told_what_to_do_next(tmp_path: Path) -> None:
    """On a terminal the start names what runs, with what, and commands that work as they are printed."""
    state = tmp_path / "state"
    controller, terminal = pty.openpty()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PALYRA_")}
    with subprocess.Popen(
        [sys.executable, "-m", "palyra", "serve", "--port", "0", "--state-dir", str(state)],
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env={**environ, "HOME": str(tmp_path), "NO_COLOR": "1", "COLUMNS": "300"},
        cwd=_ROOT,
    ) as process:
        os.close(terminal)
        with open(controller, encoding="utf-8", newline="\n") as screen:
            lines = []
            for line in screen:
                lines.append(line.rstrip())
                if "explain last" in line:
                    break
            process.send_signal(signal.SIGINT)
            assert process.wait() == 0
    text = "\n".join(lines)
    assert "Palyra 0.1.0 is ready · Python 3." in text
    assert "config     defaults, no file" in text
    assert re.search(r"^journal +position \d+ · new$", text, re.MULTILINE)
    assert f'env --state-dir {state})"' in text
    assert lines[-1].endswith(f"explain last --state-dir {state}")
