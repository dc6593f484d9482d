"""The threat model and its proof: for each row the defences, each taken away, and the tests that fail then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from defences import DEFENCES, THREATS

TESTS = Path(__file__).parent


def test_every_defence_has_a_name_of_its_own() -> None:
    """None of the table hides another, and each has its tests."""
    assert len(DEFENCES) == sum(len(row) for row in THREATS.values())
    assert all(one.tests for one in DEFENCES.values())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each defence is taken away in a fork")
@pytest.mark.timeout(300)
def test_every_defence_is_missed_when_it_is_gone(tmp_path: Path) -> None:
    """With everything in place all tests pass; without a defence each of its tests fails, by what it asserts."""
    tests = sorted({test for one in DEFENCES.values() for test in one.tests})
    proof = tmp_path / "proof.json"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "without_defence"),
            *("--without-each-defence", str(proof), *(f"{TESTS / file}" for file in tests)),
        ],
        cwd=TESTS.parent,
        env={**environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(proof.read_text())
    expected = {name: dict.fromkeys(one.tests, "failed") for name, one in DEFENCES.items()}
    expected["none"] = dict.fromkeys(tests, "passed")
    wrong = {
        name: {test: outcome for test, outcome in found.get(name, {}).items() if outcome != each.get(test)}
        for name, each in expected.items()
        if found.get(name) != each
    }
    assert wrong == {}
