"""Peg frames, shares and assembly (peg:P31 to P34, N15)."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peg.batches import CoinKind, FedCoin, OpenBatch, climb
from peg.fedscript import coin_script, key_tweak
from peg.parameters import LOCAL
from peg.signing import (
    PegSig,
    PegState,
    PegWant,
    SessionKey,
    SigningSession,
    check_disjoint,
    decode_pegsig,
    decode_pegstate,
    decode_pegwant,
    frame_digest,
    is_batch_signature,
    open_frame,
)
from sidechain.crypto.hashes import tagged_hash
from sidechain.crypto.keys import (
    GROUP_ORDER,
    compact_to_der,
    der_to_compact,
    ecdsa_sign,
    public_key,
    schnorr_sign,
    tweak_add_secret,
)
from sidechain.errors import InvalidEncoding, InvariantError, PeerFault
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.peg.test_batches import SCRIPT, anchor, burn, coin, opened, view
from tests.peg.world import secret

KEY = SessionKey(anchor=OutPoint(bytes(range(32)), 1), h_sel=7, version=2)
KEY_HEX = bytes(range(32)).hex() + "01000000" + "07000000" + "02000000"
GENESIS = b"\x99" * 32


def batch() -> OpenBatch:
    found = opened(coins=(anchor(600_000), coin(2, 90_000)), queue=(burn(1),))
    return climb(found, view(), LOCAL)


def session() -> SigningSession:
    made = batch()
    return SigningSession(made, made.versions[0], SCRIPT)


def signature(member: int, digest: bytes, spent: FedCoin) -> bytes:
    tweak = key_tweak(SCRIPT.keys[member], spent.claim_script)
    key = secret(f"peg {member}")
    return ecdsa_sign(key if tweak is None else tweak_add_secret(key, tweak), digest) + b"\x01"


def share(member: int, made: SigningSession) -> PegSig:
    pairs = zip(made.digests, made.batch.inputs, strict=True)
    return PegSig(
        lane=0,
        index=made.batch.index,
        session=made.key,
        txid=made.version.txid,
        state_digest=bytes(32),
        signatures=tuple(signature(member, digest, spent) for digest, spent in pairs),
    )


# ---- bodies ----


def test_bodies_are_canonical() -> None:
    sig = PegSig(
        lane=0,
        index=3,
        session=KEY,
        txid=b"\x04" * 32,
        state_digest=b"\x05" * 32,
        signatures=(b"\x30" * 71, b"\x31" * 72),
    )
    wanted = "00" + "03000000" + KEY_HEX + "04" * 32 + "05" * 32 + "0200"
    assert sig.encode().hex() == wanted + "47" + "30" * 71 + "48" + "31" * 72
    assert decode_pegsig(sig.encode()) == sig
    want = PegWant(KEY, 0b101)
    assert want.encode().hex() == KEY_HEX + "0500"
    assert decode_pegwant(want.encode()) == want
    state = PegState(9, b"\x06" * 32)
    assert state.encode().hex() == "09000000" + "06" * 32
    assert decode_pegstate(state.encode()) == state


def test_bodies_fit_the_frame_limits() -> None:
    assert len(PegWant(KEY, 0).encode()) <= 64
    assert len(PegState(0, bytes(32)).encode()) == 36
    largest = PegSig(
        lane=0,
        index=0,
        session=KEY,
        txid=bytes(32),
        state_digest=bytes(32),
        signatures=(bytes(73),) * 600,
    )
    assert len(largest.encode()) <= 65_536


@given(st.binary(max_size=200))
def test_hostile_bodies_decode_only_to_what_encodes_back(data: bytes) -> None:
    for decode in (decode_pegsig, decode_pegwant, decode_pegstate):
        try:
            found = decode(data)
        except InvalidEncoding:
            continue
        assert found.encode() == data


def test_frame_signature_binds_kind_and_chain() -> None:
    body = b"body"
    key = secret("block 1")
    assert frame_digest(GENESIS, 22, body) == tagged_hash("fedpeg/msg", GENESIS + b"\x16" + body)
    frame = body + schnorr_sign(key, frame_digest(GENESIS, 22, body))
    xonly = public_key(key)[1:]
    assert open_frame(GENESIS, 22, frame, member=1, block_key=xonly) == body
    for genesis, kind, data in (
        (GENESIS, 21, frame),
        (b"\x98" * 32, 22, frame),
        (GENESIS, 22, b"B" + frame[1:]),
        (GENESIS, 22, frame[:64]),
    ):
        with pytest.raises(PeerFault):
            open_frame(genesis, kind, data, member=1, block_key=xonly)


# ---- shares ----


def test_k_shares_make_the_transaction_whatever_their_order() -> None:
    found = set()
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 1]):
        made = session()
        for member in order:
            assert made.add(member, share(member, made), b"")
        raw = made.assemble()
        assert raw is not None
        assert parse_parent_tx(raw).txid == made.version.txid
        found.add(raw)
    assert len(found) == 1


def test_witness_has_signatures_in_key_order_and_the_coins_own_script() -> None:
    made = session()
    for member in (3, 1, 2):
        made.add(member, share(member, made), b"")
    raw = made.assemble()
    assert raw is not None
    for position, spent in enumerate(made.batch.inputs):
        script = coin_script(SCRIPT, spent.claim_script).script
        sigs = [signature(m, made.digests[position], spent) for m in (1, 2, 3)]
        witness = b"\x05\x00" + b"".join(bytes((len(s),)) + s for s in sigs)
        assert witness + bytes((len(script),)) + script in raw


def test_below_k_nothing_is_assembled() -> None:
    made = session()
    made.add(0, share(0, made), b"")
    made.add(1, share(1, made), b"")
    assert made.assemble() is None
    assert made.have == 0b11


def test_wrong_share_blames_its_member_with_the_frame_as_proof() -> None:
    made = session()
    good = share(1, made)
    swapped = replace(good, signatures=tuple(reversed(good.signatures)))
    for wrong in (swapped, replace(good, signatures=good.signatures[:1])):
        with pytest.raises(PeerFault) as caught:
            made.add(1, wrong, b"frame")
        assert (caught.value.member_id, caught.value.proof) == (1, b"frame")
    with pytest.raises(PeerFault):
        made.add(2, good, b"frame")
    assert made.have == 0


def test_share_of_another_transaction_is_another_view_and_not_a_fault() -> None:
    made = session()
    assert not made.add(1, replace(share(1, made), txid=bytes(32)), b"")
    assert made.have == 0


def test_signature_must_be_strict_low_s_and_sighash_all() -> None:
    """P33."""
    made = session()
    key = SCRIPT.keys[0]
    good = signature(0, made.digests[0], made.batch.inputs[0])
    assert is_batch_signature(key, made.digests[0], good)
    compact = der_to_compact(good[:-1])
    high = GROUP_ORDER - int.from_bytes(compact[32:], "big")
    high_s = compact_to_der(compact[:32] + high.to_bytes(32, "big")) + b"\x01"
    for wrong in (good[:-1], good[:-1] + b"\x02", high_s, good[:-2] + b"\x00\x01", b"\x01", b""):
        assert not is_batch_signature(key, made.digests[0], wrong)


def test_payout_that_the_ancestry_paid_is_never_signed() -> None:
    made = batch()
    check_disjoint(made, [b"\x07" * 36])
    with pytest.raises(InvariantError):
        check_disjoint(made, [made.payouts[0].burn_id])


def test_coin_kinds_are_named() -> None:
    assert [str(kind) for kind in CoinKind] == ["anchor", "deposit", "donation"]
