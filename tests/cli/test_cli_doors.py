"""Who answers where a daemon is asked: one of another release, or somebody who is no daemon."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from cli_world import Cli

#: An answer with nothing that is asked for.
FROM_ELSEWHERE = b'{"colour": 1, "at": {"journal_id": "01K", "position": 3, "as_of_us": 5, "source": "daemon"}}'


class Stranger(HTTPServer):
    """A server that answers everything in the same way."""

    answer = b""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert isinstance(self.server, Stranger)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.answer)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    server = Stranger(("127.0.0.1", 0), Stranger.Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (FROM_ELSEWHERE, 5, "unsupported_version"),
        (b'{"hello": "world"}', 4, "daemon_not_running"),
        (b"<html>hello</html>", 4, "daemon_not_running"),
    ],
)
def test_an_answer_that_cannot_be_read_is_no_bug(
    day: Cli, stranger: Stranger, answer: bytes, status: int, code: str
) -> None:
    """A daemon of before an upgrade is told from a server that is none."""
    stranger.answer = answer
    url = f"http://127.0.0.1:{stranger.server_port}"
    ran = day("status", "--url", url, "--json", environ={"PALYRA_TOKEN": "anything"})
    assert (ran.status, ran.document["error"]["code"]) == (status, code)


@pytest.mark.parametrize("zone", [":/etc/localtime", "CET-1CEST", "Nowhere/Nobody", "Europe/Prague"])
def test_any_zone_of_the_machine_will_do(day: Cli, zone: str) -> None:
    """TZ may name one, or a file, or say its rule; what it is not good for is not asked."""
    ran = day("status", environ={"TZ": zone, "PALYRA_CLI_TIMEZONE": "local"})
    assert (ran.status, ran.err) == (0, "")
