"""What a real node takes of transactions that k members sign: sizes, scripts, dust, the lock.

The tests of this module leave the node as it is; nothing in it has ever paid a high fee, so members
have no estimate.

Source: peg:14, peg:S4, peg:S8, peg:P14, peg:P26, peg:P27, peg:10.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from federation.bitcoind_process import find_bitcoind
from peg.fedscript import FedScript, coin_script, fed_script, key_tweak
from peg.lanes import encode_unsigned, with_witnesses
from peg.payments import Payment, PaymentInput
from sidechain.crypto.hashes import sha256, sha256d
from sidechain.crypto.keys import ecdsa_sign, public_key, tweak_add_secret
from sidechain.primitives.encoding import compact_size, le32, le64, vec
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.peg.real_bitcoin import ALICE, BOB, TRIAL_SATS, RealBitcoin, RealPegWorld
from tests.peg.world import parent_tx, secret

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TRUC_VSIZE_MAX = 10_000
DUST_SATS = {
    "P2PKH": (b"\x76\xa9\x14" + bytes(20) + b"\x88\xac", 546),
    "P2SH": (b"\xa9\x14" + bytes(20) + b"\x87", 540),
    "P2WPKH": (b"\x00\x14" + bytes(20), 294),
    "P2WSH": (b"\x00\x20" + bytes(32), 330),
    "P2TR": (b"\x51\x20" + public_key(secret("taproot"))[1:], 330),
}


def signed_by_k(script: FedScript, payment: Payment) -> bytes:
    """A transaction of a federation whose keys are the test's, signed by its first k members."""
    witnesses = []
    for digest in payment.digests(script):
        keys = [secret(f"peg {member}") for member in range(script.k)]
        signatures = [ecdsa_sign(key, digest) + b"\x01" for key in keys]
        witnesses.append([b"", *signatures, script.script])
    unsigned = encode_unsigned([coin.outpoint for coin in payment.inputs], payment.outputs)
    return with_witnesses(unsigned, witnesses)


def federation_of(k: int, n: int, csv: int) -> FedScript:
    """A fedpegscript of the test's keys."""
    return fed_script(
        k=k,
        keys=[public_key(secret(f"peg {member}")) for member in range(n)],
        csv=csv,
        emergency_keys=[public_key(secret(f"emergency {i}")) for i in range(3)],
    )


def plain_payment(
    coins: Sequence[OutPoint], value_sats: int, fee_sats: int, program: bytes
) -> Payment:
    """All of some plain coins of equal value to one output."""
    inputs = tuple(
        PaymentInput(outpoint=outpoint, value_sats=value_sats, claim_script=None)
        for outpoint in coins
    )
    outputs = ((len(coins) * value_sats - fee_sats, program),)
    return Payment(index=None, burn_ids=(), inputs=inputs, outputs=outputs)


async def test_script_standardness_per_k_of_n(bitcoin: RealBitcoin) -> None:
    """Whatever S8 allows, the node relays: up to 13 of 15."""
    sizes = [(2, 3), (3, 4), (5, 7), (7, 10), (9, 12), (11, 15), (13, 15), (15, 15)]
    scripts = [federation_of(k, n, 4_032) for k, n in sizes]
    paid = [(100_000, coin_script(script, None).program) for script in scripts]
    txid = await bitcoin.pay_all(paid)
    await bitcoin.grow(1)
    for index, script in enumerate(scripts):
        payment = plain_payment([OutPoint(txid, index)], 100_000, 10_000, script.program)
        verdict = await bitcoin.client.test_mempool_accept(signed_by_k(script, payment))
        if script.witness_worst_bytes <= 1_650:
            assert verdict.allowed, (script.k, verdict.reason)
        elif find_bitcoind().is_knots:
            assert verdict.reason.startswith("bad-witness"), (script.k, verdict)
    assert [s.k for s in scripts if s.witness_worst_bytes <= 1_650][-1] == 13


async def test_60_inputs(bitcoin: RealBitcoin) -> None:
    """60 inputs of 3 of 4 stay below the 10,000 vB of TRUC, 70 do not (P27)."""
    script = federation_of(3, 4, 4_032)
    txid = await bitcoin.pay_all([(20_000, script.program)] * 70)
    await bitcoin.grow(1)
    for count, fits in ((60, True), (70, False)):
        coins = [OutPoint(txid, index) for index in range(count)]
        raw = signed_by_k(script, plain_payment(coins, 20_000, 30_000, script.program))
        assert (parse_parent_tx(raw).vsize <= TRUC_VSIZE_MAX) == fits
        verdict = await bitcoin.client.test_mempool_accept(raw)
        assert verdict.allowed == fits, verdict
        assert fits or "truc" in verdict.reason.lower(), verdict


async def test_60_inputs_are_consolidated_in_batches_the_node_takes(
    tmp_path: Path, bitcoin: RealBitcoin
) -> None:
    """65 gifts: as many as max_vsize has room for, the rest in the next batch (P14)."""
    world = RealPegWorld(tmp_path, bitcoin)
    await world.start(60_000_000, 40_000_000)
    await bitcoin.pay_all([(25_000, world.script.program)] * 65)
    await bitcoin.grow(world.parameters.pegin_depth)
    await world.tell()
    await world.try_extend()
    first = await world.until_sent()
    assert len(first.inputs) > 50 and len(first.outputs) == 2
    assert world.parameters.max_vsize - 400 < first.vsize <= world.parameters.max_vsize
    await world.blocks(3)
    assert len(world.view.coins) < 20
    await world.check()


async def test_100_payouts_one_batch(tmp_path: Path, bitcoin: RealBitcoin) -> None:
    """100 burns leave in one batch of one input and about 3.4 kvB."""
    world = RealPegWorld(tmp_path, bitcoin)
    await world.start(60_000_000, 40_000_000)
    burns = [world.side.burn(b"\x00\x14" + sha256(le32(at))[:20], 30_000) for at in range(100)]
    await world.extend(burns)
    batch = await world.until_sent()
    assert (len(batch.inputs), len(batch.outputs)) == (1, 102)
    assert 3_300 <= batch.vsize <= 3_450
    await world.until_paid()
    await world.check_paid_once()


async def test_dust_limits(tmp_path: Path, bitcoin: RealBitcoin) -> None:
    """The node's limits are those of P26; the smallest payout of each kind passes (S4)."""
    world = RealPegWorld(tmp_path, bitcoin)
    own = await bitcoin.client.address_script(bitcoin.address)
    assert own is not None
    coin = [OutPoint(await bitcoin.pay_all([(100_000, own)]), 0)]
    change = (90_000, own)
    for name, (script, limit) in DUST_SATS.items():
        for value_sats, fits in ((limit, True), (limit - 1, False)):
            raw = await bitcoin.sign(parent_tx(coin, [(value_sats, script), change]).hex())
            verdict = await bitcoin.client.test_mempool_accept(raw)
            assert verdict.allowed == fits, (name, verdict)
            assert fits or verdict.reason.startswith("dust"), verdict
    await world.start(60_000_000, 40_000_000)
    smallest = world.parameters.min_pegout_sats
    await world.extend([world.side.burn(to, smallest) for to, _ in DUST_SATS.values()])
    batch = await world.until_sent()
    assert len(batch.outputs) == 2 + len(DUST_SATS)
    assert min(value for value, _ in batch.outputs[2:]) >= 5 * max(d for _, d in DUST_SATS.values())
    await world.until_paid()
    await world.check_paid_once()


def emergency_spend(
    script: FedScript,
    claim_script: bytes | None,
    coin: OutPoint,
    value_sats: int,
    pair: Sequence[int],
) -> bytes:
    """Two holders take a coin, written down from peg:10 and BIP143 alone."""
    own = coin_script(script, claim_script)
    outputs = le64(value_sats - 1_000) + vec(BOB)
    sequence = le32(script.csv)
    digest = sha256d(
        le32(2)
        + sha256d(coin.serialize())
        + sha256d(sequence)
        + coin.serialize()
        + vec(own.script)
        + le64(value_sats)
        + sequence
        + sha256d(outputs)
        + le32(0)
        + le32(1)
    )
    signatures = []
    for holder in pair:
        key, tweak = (
            secret(f"emergency {holder}"),
            key_tweak(script.emergency_keys[holder], claim_script),
        )
        signatures.append(
            ecdsa_sign(key if tweak is None else tweak_add_secret(key, tweak), digest) + b"\x01"
        )
    items = [b"", *signatures, *[b""] * (script.k + 1), own.script]
    witness = compact_size(len(items)) + b"".join(vec(item) for item in items)
    inputs = compact_size(1) + coin.serialize() + b"\0" + sequence
    body = inputs + compact_size(1) + outputs
    return le32(2) + b"\x00\x01" + body + witness + le32(0)


async def test_csv_boundary(bitcoin: RealBitcoin) -> None:
    """Any two holders: refused one block before the lock ends, taken at it; k of n always."""
    script = federation_of(3, 4, 30)
    programs = [coin_script(script, claim).program for claim in (None, ALICE)]
    txid = await bitcoin.pay_all([(100_000, program) for program in programs])
    await bitcoin.grow(1)
    spends = [
        emergency_spend(script, claim, OutPoint(txid, index), 100_000, pair)
        for index, claim in enumerate((None, ALICE))
        for pair in combinations(range(3), 2)
    ]
    await bitcoin.grow(script.csv - 2)  # age csv - 1
    for spend in spends:
        verdict = await bitcoin.client.test_mempool_accept(spend)
        assert (verdict.allowed, verdict.reason) == (False, "non-BIP68-final")
    await bitcoin.grow(1)
    for spend in spends:
        verdict = await bitcoin.client.test_mempool_accept(spend)
        assert verdict.allowed, verdict.reason
    payment = plain_payment([OutPoint(txid, 0)], 100_000, 2_000, script.program)
    verdict = await bitcoin.client.test_mempool_accept(signed_by_k(script, payment))
    assert verdict.allowed, verdict.reason


async def test_peg_round_trip(tmp_path: Path, bitcoin: RealBitcoin) -> None:
    """Two deposits in, three burns out, nothing left owed, every satoshi found on the chains."""
    world = RealPegWorld(tmp_path, bitcoin)
    await world.start(60_000_000, 40_000_000)
    await world.extend([world.side.burn(BOB, 30_000_000), world.side.burn(BOB, 20_000_000)])
    await world.extend([world.side.burn(ALICE, 45_000_000)])
    await world.until_paid()
    await world.check_paid_once()
    book = await world.check()
    fees = world.view.book.bitcoin_fee_sats
    assert book.pool_sats == 5_000_000 + TRIAL_SATS + 2_000 + 300 + 3 * 2_500 - fees
    assert len(await world.chains.batches_at_tip()) >= 1
