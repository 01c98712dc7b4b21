"""The file of registrations: kept over restarts, over damage, and not longer than it must be."""

from pathlib import Path

import pytest

from federation.covenant_file import open_covenants
from federation.log import open_log
from peg.covenant_ports import DROPPED, KEPT, fold_records
from peg.covenants import encode_registration
from sidechain.wallet.covenant import CovenantTerms, covenant_script
from tests.factories import federation_params

PARAMS = federation_params()
VOTE_KEY = b"\x07" * 32


def body_of(serial: int) -> bytes:
    """A registration told by member 3, as a record."""
    terms = CovenantTerms(script=b"\x00\x14" + serial.to_bytes(20, "big"), max_fee_sats=5)
    return b"\x03" + encode_registration(terms)


def claim_script(serial: int) -> bytes:
    terms = CovenantTerms(script=b"\x00\x14" + serial.to_bytes(20, "big"), max_fee_sats=5)
    return covenant_script(terms, PARAMS.pegged_asset)


def opened(folder: Path) -> tuple[tuple[int, bytes], ...]:
    with open_covenants(folder, PARAMS, VOTE_KEY, open_log("test").logger) as file:
        return file.records


def write(folder: Path, *records: tuple[int, bytes]) -> None:
    with open_covenants(folder, PARAMS, VOTE_KEY, open_log("test").logger) as file:
        for kind, body in records:
            file.append(kind, body)


def test_records_when_opened_again_then_all_there(tmp_path: Path) -> None:
    write(tmp_path, (KEPT, body_of(1)))
    write(tmp_path, (KEPT, body_of(2)), (DROPPED, claim_script(1)))
    kept = fold_records(opened(tmp_path), PARAMS.pegged_asset)
    assert list(kept) == [claim_script(2)]
    assert kept[claim_script(2)].sender == 3


def test_file_when_mostly_history_then_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.covenant_file.SPARE_RECORDS", 2)
    records = [(KEPT, body_of(n)) for n in range(5)]
    records += [(DROPPED, claim_script(n)) for n in range(3)]
    write(tmp_path, *records)
    before = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert list(fold_records(opened(tmp_path), PARAMS.pegged_asset)) == [
        claim_script(3),
        claim_script(4),
    ]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < before
    kept = fold_records(opened(tmp_path), PARAMS.pegged_asset)
    assert list(kept) == [claim_script(3), claim_script(4)]


def test_file_when_damaged_then_begun_anew(tmp_path: Path) -> None:
    write(tmp_path, *[(KEPT, body_of(n)) for n in range(5)])
    (path,) = tmp_path.glob("covenants-*")
    data = bytearray(path.read_bytes())
    data[120] ^= 1
    path.write_bytes(data)
    assert opened(tmp_path) == ()
    write(tmp_path, (KEPT, body_of(9)))
    assert len(opened(tmp_path)) == 1


def test_records_when_of_another_form_then_passed_over() -> None:
    assert fold_records([(KEPT, b"\x03\xff"), (KEPT, b""), (77, b"x")], PARAMS.pegged_asset) == {}
