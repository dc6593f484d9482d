"""References to secrets outside the vault: what is read, what is refused, and that no value is told."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest

from palyra.auth.keys import make_key
from palyra.auth.references import SECRET_MAX_BYTES, CredentialMissing, ReferenceSource

VALUE = "sk-held-by-reference-0123456789"


def write(path: Path, text: str | bytes = VALUE, mode: int = 0o600) -> str:
    """Write a file the way a careful person would; return the reference to it."""
    path.unlink(missing_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return f"file:{path}"


def refusal(source: ReferenceSource, reference: str) -> CredentialMissing:
    with pytest.raises(CredentialMissing) as caught:
        source.get(reference)
    error = caught.value
    assert error.code == "missing_credential"
    assert error.http_status == 503
    assert error.credential_ref == reference
    assert repr(reference)[1:-1] in repr(error)
    assert "0123456789" not in "".join(traceback.format_exception(error))
    return error


def test_a_variable_is_read_when_it_is_asked_for() -> None:
    """The value is the environment's at that moment, without the blanks around it."""
    environment = {"KEY": f" {VALUE}\n"}
    source = ReferenceSource(environment)
    assert source.get("env:KEY").reveal() == VALUE
    environment["KEY"] = "another"
    assert source.get("env:KEY").reveal() == "another"


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_variable_that_is_not_there(value: str | None) -> None:
    """Unset and blank are both missing."""
    refusal(ReferenceSource({} if value is None else {"KEY": value}), "env:KEY")


@pytest.mark.parametrize(
    "reference", ["", "env:", "file:", "file:relative/key", "vault:global/key", "KEY", VALUE[:3]]
)
def test_other_forms_are_no_references(reference: str) -> None:
    """Only `env:NAME` and `file:/PATH` are understood."""
    refusal(ReferenceSource({"": VALUE}), reference)


@pytest.mark.parametrize("text", [f"{VALUE}\nsecond", f"{VALUE}\x00", f"{VALUE}\r\nX-Evil: 1", "\x1b[0m0123456789"])
def test_a_secret_is_one_printable_line(tmp_path: Path, text: str) -> None:
    """What could end a header is refused, from a variable and from a file."""
    refusal(ReferenceSource({"KEY": text}), "env:KEY")
    refusal(ReferenceSource({}), write(tmp_path / "key", text))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o200 | 0o400])
def test_a_private_file_is_read(tmp_path: Path, mode: int) -> None:
    """A file that only its owner can use gives its line, without the newline at its end."""
    assert ReferenceSource({}).get(write(tmp_path / "key", VALUE + "\n", mode)).reveal() == VALUE


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o444, 0o604, 0o700, 0o620, 0o4600])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    """A looser mode is refused with the command that mends it."""
    error = refusal(ReferenceSource({}), write(tmp_path / "key", mode=mode))
    assert f"{mode:04o}" in str(error)
    assert "chmod 600" in str(error)


def test_shared_directories_may_hold_readable_files(tmp_path: Path) -> None:
    """Below the secrets directory and $CREDENTIALS_DIRECTORY a file may be readable, never writable, by all."""
    docker, systemd, elsewhere = tmp_path / "secrets", tmp_path / "credentials", tmp_path / "elsewhere"
    for directory in (docker, systemd, elsewhere):
        directory.mkdir()
    source = ReferenceSource({"CREDENTIALS_DIRECTORY": str(systemd)}, secrets_directory=docker)
    for directory in (docker, systemd):
        reference = write(directory / "key", mode=0o444)
        assert source.get(reference).reveal() == VALUE
        (directory / "key").chmod(0o664)
        refusal(source, reference)
    refusal(source, write(elsewhere / "key", mode=0o444))
    outside = write(elsewhere / "other", mode=0o444).removeprefix("file:")
    (docker / "link").symlink_to(outside)
    refusal(source, f"file:{docker}/link")
    relative = ReferenceSource({"CREDENTIALS_DIRECTORY": "elsewhere"}, secrets_directory=docker)
    refusal(relative, f"file:{elsewhere}/key")


def test_a_link_passes_if_its_target_does(tmp_path: Path) -> None:
    """A symbolic link is judged by the file it leads to."""
    write(tmp_path / "key")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    source = ReferenceSource({})
    assert source.get(f"file:{tmp_path}/link").reveal() == VALUE
    (tmp_path / "key").chmod(0o644)
    refusal(source, f"file:{tmp_path}/link")


def test_what_is_no_file(tmp_path: Path) -> None:
    """A missing path, a directory, a pipe and an impossible name are refused without waiting."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe", tmp_path / "nul\0"):
        refusal(ReferenceSource({}), f"file:{path}")


def test_contents_that_are_no_secret(tmp_path: Path) -> None:
    """Empty, too large and undecodable files are refused."""
    for content in (b"", b"\n", b"x" * (SECRET_MAX_BYTES + 1), b"0123456789\xff"):
        refusal(ReferenceSource({}), write(tmp_path / "key", content))
    reference = write(tmp_path / "key", b"x" * SECRET_MAX_BYTES)
    assert len(ReferenceSource({}).get(reference).reveal()) == SECRET_MAX_BYTES


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A file that another user owns is refused, whatever its mode."""
    reference = write(tmp_path / "key")
    os.chown(tmp_path / "key", 12_345, 12_345)
    assert "another user" in str(refusal(ReferenceSource({}), reference))


def test_a_file_is_read_each_time(tmp_path: Path) -> None:
    """A secret rotated in place or by renaming serves the next call."""
    path = tmp_path / "key"
    source = ReferenceSource({})
    reference = write(path)
    assert source.get(reference).reveal() == VALUE
    path.write_text("rotated in place")
    assert source.get(reference).reveal() == "rotated in place"
    write(tmp_path / "next", "renamed over")
    (tmp_path / "next").replace(path)
    assert source.get(reference).reveal() == "renamed over"
    path.unlink()
    refusal(source, reference)


def test_our_own_key_is_no_providers_key() -> None:
    """A variable that `palyra env` has set would send each request back here."""
    own = make_key("client").secret.reveal()
    for value in (own, own[:-2]):
        error = refusal(ReferenceSource({"OPENAI_API_KEY": value}), "env:OPENAI_API_KEY")
        assert "loop" in str(error)
        assert value not in str(error)
