"""Palyra's request path beside a bare aiohttp proxy, in the same run, round by round.

    python bench/gateway.py [--rounds 5] [--seconds 2] [--pinned]

Both stand before the same upstream; one client loads them in turns, so that the machine's moods hit both.
The figure to rely on is the ratio: the median over the rounds of Palyra's rate to the proxy's. On a machine that
others use, rely on the second one instead: the proxy's processor time a request to Palyra's.
`--pinned` gives the servers one core and everything else another.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent


def start(*argv: str, core: int | None, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    return subprocess.Popen(
        [sys.executable, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=pin,
        env={**os.environ, **(env or {})},
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def start_palyra(
    upstream: str, folder: Path, core: int | None, start: Callable[..., subprocess.Popen[str]] = start
) -> tuple[subprocess.Popen[str], int, str]:
    config = folder / "palyra.toml"
    config.write_text(
        f"""version = 1
[daemon]
port = 0
[observability]
log_format = "json"
log_file = "{folder}/palyra.log"
[[model_provider.providers]]
provider_id = "bench"
kind = "openai_compatible"
base_url = "{upstream}/v1"
allow_private_base_url = true
max_concurrency = 4096
[[model_provider.models]]
model_id = "bench"
provider_id = "bench"
"""
    )
    config.chmod(0o600)
    state = folder / "state"
    argv = ["-m", "palyra", "serve", "--config", str(config), "--state-dir", str(state)]
    process = start(*argv, core=core)
    ready = json.loads(first_line(process))
    return process, int(ready["url"].rsplit(":", 1)[1]), (state / "client.key").read_text().strip()


def processor_us(process: subprocess.Popen[str]) -> float:
    """Return the processor time that all threads of a process have used."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1_000


def load(port: int, key: str, connections: int, seconds: float, kind: str, core: int | None) -> dict[str, float]:
    argv = [str(HERE / "load.py"), "client", str(port), key, str(connections), str(seconds), kind]
    process = start(*argv, core=core)
    result: dict[str, float] = json.loads(first_line(process))
    process.wait()
    return result


def measured(
    server: subprocess.Popen[str],
    port: int,
    key: str,
    connections: int,
    seconds: float,
    kind: str,
    core: int | None,
) -> dict[str, float]:
    """Load a server; `cpu_us` is the processor time that a request has cost it."""
    before_us = processor_us(server)
    result = load(port, key, connections, seconds, kind, core)
    result["cpu_us"] = (processor_us(server) - before_us) / (result["per_second"] * seconds)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--pinned", action="store_true")
    parser.add_argument("--connections", type=int, nargs="*", default=[1, 16, 64])
    options = parser.parse_args()
    server_core, other_core = (0, 1) if options.pinned else (None, None)
    with tempfile.TemporaryDirectory() as folder:
        upstream = start(str(HERE / "load.py"), "upstream", "0.001", core=other_core)
        url = f"http://127.0.0.1:{first_line(upstream)}"
        bare = start(str(HERE / "bare_proxy.py"), url, core=server_core)
        bare_port = int(first_line(bare))
        palyra, palyra_port, key = start_palyra(url, Path(folder), server_core)
        try:
            head = f"{'':10}{'conns':>6}{'bare /s':>10}{'palyra /s':>11}{'ratio':>7}"
            head += f"{'bare cpu':>10}{'palyra cpu':>12}{'ratio':>7}"
            print(f"{head}{'bare p50':>10}{'palyra p50':>12}{'first p50':>20}")
            # A client of messages has Palyra translate; the proxy passes on what it would have asked for itself.
            for kind, floor_kind in (("unary", "unary"), ("stream", "stream"), ("messages", "stream")):
                for connections in options.connections:
                    rounds = []
                    for _ in range(options.rounds):
                        asked = (connections, options.seconds)
                        floor = measured(bare, bare_port, "none", *asked, floor_kind, other_core)
                        ours = measured(palyra, palyra_port, key, *asked, kind, other_core)
                        assert not ours["errors"], f"{ours['errors']} answers were not 200"
                        rounds.append((floor, ours))
                    floors, mine = zip(*rounds, strict=True)
                    ratio = statistics.median(b["per_second"] / a["per_second"] for a, b in rounds)
                    share = statistics.median(a["cpu_us"] / b["cpu_us"] for a, b in rounds)
                    print(
                        f"{kind:10}{connections:>6}"
                        f"{statistics.median(one['per_second'] for one in floors):>10.0f}"
                        f"{statistics.median(one['per_second'] for one in mine):>11.0f}{ratio:>7.2f}"
                        f"{statistics.median(one['cpu_us'] for one in floors):>8.0f}us"
                        f"{statistics.median(one['cpu_us'] for one in mine):>10.0f}us{share:>7.2f}"
                        f"{statistics.median(one['p50_ms'] for one in floors):>8.2f}ms"
                        f"{statistics.median(one['p50_ms'] for one in mine):>10.2f}ms"
                        f"{statistics.median(one['first_p50_ms'] for one in floors):>10.2f}"
                        f"{statistics.median(one['first_p50_ms'] for one in mine):>8.2f}ms"
                    )
            size = sum(file.stat().st_size for file in (Path(folder) / "state").glob("journal.db*"))
            print(f"journal files at the end: {size / 1e6:.1f} MB")
        finally:
            for process in (palyra, bare, upstream):
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
