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


def test_changes_when_held_back_then_read_here_and_on_disk_with_the_next_batch(
    tmp_path: Path,
) -> None:
    with Database(tmp_path / "db") as database:
        database.write({b"a": b"1", b"b": b"1"})
        database.hold({b"a": b"2"}, [b"b"])
        database.hold({b"c": b"3"})
        assert [database.get(key) for key in (b"a", b"b", b"c")] == [b"2", None, b"3"]
        assert list(plain_items(database)) == [(b"a", b"1"), (b"b", b"1")]
        database.write({b"d": b"4"}, [b"c"])
        assert list(plain_items(database)) == [(b"a", b"2"), (b"d", b"4")]
        database.hold({b"e": b"5"})
        assert list(database.items(b"e")) == [(b"e", b"5")]
        database.hold({b"f": b"6"})
        with database.snapshot() as snapshot:
            assert snapshot.get(b"f") == b"6"
        database.hold({}, [b"f"])
    with Database(tmp_path / "db") as database:
        assert database.get(b"e") == b"5" and database.get(b"f") is None


def test_changes_when_held_back_and_the_disk_refuses_then_still_held(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    plain, database._db = database._db, NoDisk()
    database.hold({b"a": b"1"})
    with pytest.raises(Unavailable):
        database.flush()
    assert database.get(b"a") == b"1"
    database._db = plain
    database.close()
    with Database(tmp_path / "db") as again:
        assert again.get(b"a") == b"1"


def test_hold_when_a_key_is_put_and_deleted_then_refused(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as database, pytest.raises(InvariantError):
        database.hold({b"a": b"1"}, [b"a"])


def plain_items(database: Database) -> list[tuple[bytes, bytes]]:
    """What is on the disk."""
    return list(database._db.iterator())


class NoDisk:
    """A LevelDB whose disk is full."""

    def write_batch(self, **options: bool) -> None:
        raise plyvel.IOError("No space left on device")
