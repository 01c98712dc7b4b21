"""The database wrapper: atomic, locked, checked."""

from pathlib import Path

import plyvel
import pytest

from sidechain.errors import InvariantError, Unavailable
from sidechain.storage.leveldb import Database


def test_batch_when_written_then_there_after_reopening(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as database:
        database.write({b"a": b"1", b"b": b"2"})
        database.write({b"c": b"3"}, [b"a"])
    assert database.closed
    with Database(tmp_path / "db") as database:
        assert database.get(b"a") is None
        assert list(database.items(b"")) == [(b"b", b"2"), (b"c", b"3")]
        assert list(database.items(b"b")) == [(b"b", b"2")]
        assert database.disk_bytes() > 0
    database.close()


def test_folder_when_open_elsewhere_then_says_so(tmp_path: Path) -> None:
    with (
        Database(tmp_path / "db"),
        pytest.raises(Unavailable, match="in use by another process"),
    ):
        Database(tmp_path / "db")


def test_folder_when_it_is_a_file_then_unavailable(tmp_path: Path) -> None:
    (tmp_path / "db").write_text("not a folder")
    with pytest.raises(Unavailable, match="cannot be opened"):
        Database(tmp_path / "db")


def test_folder_when_damaged_then_invariant_error(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as database:
        database.write({b"a": b"1"})
    for manifest in (tmp_path / "db").glob("MANIFEST-*"):
        manifest.write_bytes(b"\xff" * manifest.stat().st_size)
    with pytest.raises((InvariantError, Unavailable)):
        Database(tmp_path / "db")


def test_snapshot_when_writes_follow_then_unchanged(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as database:
        database.write({b"a": b"1"})
        with database.snapshot() as snapshot:
            database.write({b"b": b"2"}, [b"a"])
            assert snapshot.get(b"a") == b"1"
            assert list(snapshot.items(b"")) == [(b"a", b"1")]


def test_batch_when_key_put_and_deleted_then_refused(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as database, pytest.raises(InvariantError):
        database.write({b"a": b"1"}, [b"a"])


def test_batch_when_disk_refuses_then_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Database(tmp_path / "db") as database:

        class Refusing:
            def write_batch(self, **options: bool) -> None:
                assert options["sync"]
                raise plyvel.IOError("No space left on device")

            def close(self) -> None:
                real.close()

        real = database._db
        monkeypatch.setattr(database, "_db", Refusing())
        with pytest.raises(Unavailable, match="No space left"):
            database.write({b"a": b"1"})
