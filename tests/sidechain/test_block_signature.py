"""The quick way to a header's signers agrees with the script interpreter, or leaves it to it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sidechain.crypto.keys import GROUP_ORDER, compact_to_der, der_to_compact
from sidechain.errors import InvalidBlock
from sidechain.params import ChainParams
from sidechain.primitives.block import BlockHeader
from sidechain.script import block_signature
from sidechain.script.block_signature import signers_of, verify_block_signature
from sidechain.script.script import parse_multisig
from tests.factories import SignedChain

Witness = tuple[bytes, ...]


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> BlockHeader:
    signed = SignedChain.open(tmp_path_factory.mktemp("chain") / "chain")
    try:
        signed.extend()
        return signed.chain.header(1)
    finally:
        signed.chain.close()


def high_s(item: bytes) -> bytes:
    compact = der_to_compact(item[:-1])
    s = GROUP_ORDER - int.from_bytes(compact[32:], "big")
    return compact_to_der(compact[:32] + s.to_bytes(32, "big")) + item[-1:]


OTHER_FORMS: list[Callable[[Witness], Witness]] = [
    lambda w: (w[0], w[2], w[1], *w[3:]),
    lambda w: (w[0], w[1], w[1], *w[3:]),
    lambda w: (w[0], *w[2:]),
    lambda w: (w[0], w[1], *w[1:]),
    lambda w: (b"\x01", *w[1:]),
    lambda w: (*w, w[-1]),
    lambda w: w[:-1],
    lambda w: (*w[:-1], w[-1] + b"\x51"),
    lambda w: (w[0], b"", *w[2:]),
    lambda w: (w[0], w[1][:-1], *w[2:]),
    lambda w: (w[0], w[1][:-1] + b"\x02", *w[2:]),
    lambda w: (w[0], w[1][:-2] + bytes([w[1][-2] ^ 1]) + b"\x01", *w[2:]),
    lambda w: (w[0], w[1][:4] + b"\x00" + w[1][4:], *w[2:]),
    lambda w: (),
]


def interpreted(header: BlockHeader, params: ChainParams, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the script accepts it."""
    with monkeypatch.context() as patch:
        patch.setattr(block_signature, "signers_of", lambda header: None)
        try:
            verify_block_signature(header, params)
        except InvalidBlock:
            return False
    return True


def test_header_when_signed_as_members_do_then_its_signers_are_known(
    header: BlockHeader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = parameters(tmp_path)
    signers = signers_of(header)
    assert signers is not None and interpreted(header, params, monkeypatch)
    parsed = parse_multisig(header.signblock_witness[-1])
    assert parsed is not None and [key for key, _ in signers] == list(parsed[1][: parsed[0]])
    items = header.signblock_witness[1:-1]
    assert [sig for _, sig in signers] == [der_to_compact(item[:-1]) for item in items]


@pytest.mark.parametrize("change", OTHER_FORMS)
def test_witness_when_of_another_form_then_left_to_the_script(
    header: BlockHeader, tmp_path: Path, change: Callable[[Witness], Witness]
) -> None:
    params = parameters(tmp_path)
    odd = replace(header, signblock_witness=change(header.signblock_witness))
    assert signers_of(odd) is None
    with pytest.raises(InvalidBlock):
        verify_block_signature(odd, params)


def test_signature_when_s_is_high_then_the_script_decides(
    header: BlockHeader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = parameters(tmp_path)
    witness = header.signblock_witness
    odd = replace(header, signblock_witness=(witness[0], high_s(witness[1]), *witness[2:]))
    assert signers_of(odd) is None
    accepted = interpreted(odd, params, monkeypatch)
    try:
        verify_block_signature(odd, params)
        assert accepted
    except InvalidBlock:
        assert not accepted


def parameters(folder: Path) -> ChainParams:
    signed = SignedChain.open(folder / "params")
    signed.chain.close()
    return signed.params
