"""The control socket: whoever the kernel names as somebody else gets no answer at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import aiohttp
import pytest

import palyra
from palyra.config.state import StatePaths
from palyra.daemon import peers


async def test_another_user_at_the_socket_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode of the file keeps others out; where that fails, who is at the other end still counts."""
    with tempfile.TemporaryDirectory(prefix="palyra-") as directory:
        async with palyra.Daemon({}, state_dir=directory):
            connector = aiohttp.UnixConnector(str(StatePaths(Path(directory)).socket))
            async with aiohttp.ClientSession(connector=connector) as session:
                async with session.get("http://localhost/console/v1/status") as answer:
                    assert answer.status == 200
                somebody_else = os.geteuid() + 1
                monkeypatch.setattr(peers, "_peer_uid", lambda descriptor: somebody_else)
                await connector.close()
            connector = aiohttp.UnixConnector(str(StatePaths(Path(directory)).socket))
            async with aiohttp.ClientSession(connector=connector) as session:
                with pytest.raises(aiohttp.ClientError):
                    async with session.get("http://localhost/console/v1/status"):
                        pass
