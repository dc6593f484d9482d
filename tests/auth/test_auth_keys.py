"""New keys, and the files that hold them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from palyra.auth.keyfiles import read_key_file, witness_key, write_key_file
from palyra.auth.keys import make_key
from palyra.decisions.key_text import read_key
from palyra.errors import StateError
from palyra.redaction import Secret, redact_text


def test_a_new_key_is_random_and_spelled_rightly() -> None:
    """Each key is another one; its verifier is that of its text, which is shown nowhere."""
    keys = [make_key("client") for _ in range(20)]
    assert len({key.key_id for key in keys}) == len({key.verifier for key in keys}) == 20
    for key in keys:
        text = read_key(key.secret.reveal())
        assert text is not None
        assert (text.key_id, text.verifier) == (key.key_id, key.verifier)
        assert key.secret.reveal() not in repr(key)


def test_a_given_number_makes_the_same_key() -> None:
    """Randomness can be given, so that a test can foretell a key."""
    assert make_key("admin", 7 << 256 | 9).secret == make_key("admin", 7 << 256 | 9).secret
    assert make_key("admin", 7 << 256).key_id == "000000000007"


def test_a_key_is_redacted_wherever_it_turns_up() -> None:
    """The redactor knows the shape of our keys."""
    text = make_key("client").secret.reveal()
    assert text not in redact_text(f"header was {text}")


def test_a_key_file_holds_one_line_for_us_alone(tmp_path: Path) -> None:
    """A key file is one line with mode 0600, whatever the umask, and leaves nothing beside it."""
    path = tmp_path / "client.key"
    before = os.umask(0)
    try:
        write_key_file(path, Secret("one"))
    finally:
        os.umask(before)
    assert path.read_text() == "one\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["client.key"]


def test_a_key_file_is_replaced_whole(tmp_path: Path) -> None:
    """A second key takes the first one's place, also over the rest of a crash."""
    path = tmp_path / "client.key"
    write_key_file(path, Secret("one"))
    (tmp_path / "client.key.new").write_text("half")
    write_key_file(path, Secret("two"))
    read = read_key_file(path)
    assert read is not None
    assert read.reveal() == "two"
    assert [item.name for item in tmp_path.iterdir()] == ["client.key"]


def test_a_missing_key_file_is_nothing(tmp_path: Path) -> None:
    """No file, no key, no error."""
    assert read_key_file(tmp_path / "client.key") is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_file_open_to_others_is_not_read(tmp_path: Path, mode: int) -> None:
    """A file that others may read is refused with the command that closes it."""
    path = tmp_path / "client.key"
    write_key_file(path, Secret("one"))
    path.chmod(mode)
    with pytest.raises(StateError) as caught:
        read_key_file(path)
    assert caught.value.code == "insecure_permissions"
    assert caught.value.hint == f"run: chmod 600 '{path}'"
    assert "one" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_key_file_of_somebody_else_is_not_read(tmp_path: Path) -> None:
    """A file with another owner is refused."""
    path = tmp_path / "client.key"
    write_key_file(path, Secret("one"))
    os.chown(path, 12_345, -1)
    with pytest.raises(StateError, match="another user"):
        read_key_file(path)


def test_a_key_file_is_a_plain_file(tmp_path: Path) -> None:
    """A link, a directory and a pipe are refused, and opening the pipe does not hang."""
    link, directory, pipe = tmp_path / "link", tmp_path / "directory", tmp_path / "pipe"
    write_key_file(tmp_path / "real", Secret("one"))
    link.symlink_to(tmp_path / "real")
    directory.mkdir(mode=0o700)
    os.mkfifo(pipe, 0o600)
    for path in (link, directory, pipe):
        with pytest.raises(StateError):
            read_key_file(path)


def test_the_witness_key_stays_the_same(tmp_path: Path) -> None:
    """A new journal makes the vault's key; the sub-key is the same at every start and not the key itself."""
    path = tmp_path / "vault.key"
    first = witness_key(path, create=True)
    assert first is not None
    assert len(first) == 32
    assert witness_key(path, create=True) == witness_key(path, create=False) == first
    line = read_key_file(path)
    assert line is not None
    assert len(bytes.fromhex(line.reveal())) == 32
    assert bytes.fromhex(line.reveal()) != first


def test_a_lost_vault_key_is_not_made_anew(tmp_path: Path) -> None:
    """Without the file there is no witness key, and none is made for a journal that has had one."""
    assert witness_key(tmp_path / "vault.key", create=False) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "zz", "00" * 31, "00" * 33])
def test_a_file_that_holds_no_vault_key_is_refused(tmp_path: Path, text: str) -> None:
    """Something else in the key's place is an error that says what to do."""
    path = tmp_path / "vault.key"
    write_key_file(path, Secret(text))
    with pytest.raises(StateError) as caught:
        witness_key(path, create=True)
    assert caught.value.code == "vault_key_missing"
