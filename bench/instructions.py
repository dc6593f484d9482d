"""Instructions of a request: Palyra's path beside a bare aiohttp proxy, whatever else the machine is doing.

    python bench/instructions.py [--kinds unary stream] [--requests 400]

Both run under valgrind, which has to be installed, each twice for the same time with another number of requests;
the difference is what one costs, without what is done once a second. Counted are the instructions of all threads
outside the kernel. Such a figure repeats within a few in a hundred on a machine whose clock says nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gateway
import load

HERE = Path(__file__).parent
CONNECTIONS_COUNT = 4
#: Requests of the run that is taken off.
FEW_COUNT = 100
_COUNTED = re.compile(r"I\s+refs:\s+([\d,]+)")

Started = tuple["subprocess.Popen[str]", int, str]


class Ran(NamedTuple):
    """What a program has executed, and how long it was asked."""

    instructions: int
    took_s: float


class Counting:
    """Starts programs under valgrind and reads what it says at their end."""

    def __init__(self, folder: Path) -> None:
        self._report = folder / "instructions.txt"

    def start(
        self, *argv: str, core: int | None = None, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        count = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
        with self._report.open("w") as report:
            return subprocess.Popen(
                [*count, sys.executable, *argv],
                stdout=subprocess.PIPE,
                stderr=report,
                text=True,
                env={**os.environ, "PYTHONHASHSEED": "0"},
            )

    def counted(self) -> int:
        found = _COUNTED.search(self._report.read_text())
        assert found is not None, "valgrind has said nothing; is it installed?"
        return int(found[1].replace(",", ""))


def ask(port: int, request: bytes, count: int, at_least_s: float) -> None:
    """Have so many requests answered, a few at once, spread over this time."""
    started, rounds_count = time.monotonic(), count // CONNECTIONS_COUNT
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS_COUNT)]
    answers = [one.makefile("rb") for one in sockets]
    for number in range(rounds_count):
        time.sleep(max(0.0, started + at_least_s * number / rounds_count - time.monotonic()))
        for one in sockets:
            one.sendall(request)
        for answer in answers:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += answer.readline().lower()
            assert b" 200 " in head[:20], head
            if b"chunked" in head:
                while answer.readline() != b"0\r\n":
                    pass
                answer.readline()
            else:
                answer.read(int(head.partition(b"content-length:")[2].partition(b"\r")[0]))
    for one in sockets:
        one.close()


def run(start: Callable[[Counting, str, Path], Started], kind: str, count: int, at_least_s: float) -> Ran:
    """Run a program from its start to its end, with so many requests in between."""
    upstream = gateway.start(str(HERE / "load.py"), "upstream", "0.001", core=None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counting = Counting(folder)
        process, port, key = start(counting, f"http://127.0.0.1:{gateway.first_line(upstream)}", folder)
        began = time.monotonic()
        ask(port, load.request_bytes(port, key, kind), count, at_least_s)
        took_s = time.monotonic() - began
        for one in (process, upstream):
            one.terminate()
            one.wait()
        return Ran(counting.counted(), took_s)


def start_bare(counting: Counting, upstream: str, folder: Path) -> Started:
    process = counting.start(str(HERE / "bare_proxy.py"), upstream)
    return process, int(gateway.first_line(process)), "none"


def start_palyra(counting: Counting, upstream: str, folder: Path) -> Started:
    return gateway.start_palyra(upstream, folder, None, start=counting.start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="*", default=["unary", "stream"], choices=list(load.KINDS))
    parser.add_argument("--requests", type=int, default=400)
    options = parser.parse_args()
    print(f"{'thousand instructions':24}{'bare':>8}{'palyra':>8}{'ratio':>7}")
    for kind in options.kinds:
        costs = []
        # The proxy passes on what Palyra would have asked for itself.
        for start, own_kind in ((start_bare, "stream" if kind == "messages" else kind), (start_palyra, kind)):
            many = run(start, own_kind, FEW_COUNT + options.requests, 0.0)
            few = run(start, own_kind, FEW_COUNT, many.took_s)
            costs.append((many.instructions - few.instructions) / options.requests / 1_000)
        bare, ours = costs
        print(f"{kind:24}{bare:>8.0f}{ours:>8.0f}{bare / ours:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
