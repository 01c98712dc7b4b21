"""lwk, a wallet nobody here wrote, on our chain and server in one process (clients.md 3 and 5)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import lwk
import pytest

from sidechain.crypto.keys import public_key
from sidechain.primitives.address import decode_address, encode_address
from sidechain.primitives.confidential import explicit_asset, explicit_value
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn
from sidechain.validation.coins import Coin
from tests.factories import ALICE, BOB, SignedChain, secret
from tests.lwk_wallet import LwkWallet
from tests.sidechain.esplora_world import NOW_S, Served, served
from tests.vectors import display
from tests.wally_blinding import Hidden, blinded

WORDS = "abandon " * 11 + "about"
FEE_SATS = 1_000
SCAN_REQUESTS_MAX = 170
"""A scan of a wallet whose address chains are both in use."""


@pytest.fixture
def signed(tmp_path: Path) -> SignedChain:
    """A chain signed by three of four members."""
    return SignedChain.open(tmp_path / "chain")


@pytest.fixture
async def node(signed: SignedChain, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(signed.chain, tmp_path / "index") as running:
        yield running
    assert running.faults == []
    signed.chain.close()


@pytest.fixture
def wallet(signed: SignedChain, node: Served) -> LwkWallet:
    return LwkWallet.open(
        node.server.url,
        policy_asset=display(signed.params.policy_asset),
        genesis_hash=display(signed.params.genesis_hash),
        parent_genesis_hash=display(signed.params.parent_genesis_hash),
        words=WORDS,
    )


async def balance(wallet: LwkWallet) -> int:
    return await asyncio.to_thread(wallet.balance_sats)


def hidden_to(signed: SignedChain, address: str, value_sats: int) -> Hidden:
    found = decode_address(address, signed.params.prefixes)
    assert found.blinding_key is not None
    return Hidden(value_sats=value_sats, script=found.script, blinding_key=found.blinding_key)


def bobs_address(signed: SignedChain) -> str:
    return encode_address(BOB.script, signed.params.prefixes, public_key(secret("bob's key")))


def payment(signed: SignedChain, point: OutPoint, address: str, value_sats: int) -> Transaction:
    """An explicit coin of ALICE into two hidden outputs: to the address, and the rest to BOB."""
    coin = signed.chain.coin(point)
    assert coin is not None
    total = coin.output.value_sats or 0
    rest = hidden_to(signed, bobs_address(signed), total - value_sats - FEE_SATS)
    tx = blinded(
        [TxIn(point, sequence=0xFFFFFFFD)],
        [total],
        [hidden_to(signed, address, value_sats), rest],
        asset=signed.params.pegged_asset,
        fee_sats=FEE_SATS,
        seed=point.serialize(),
    )
    return ALICE.sign(tx, [coin])


def blinded_claim(signed: SignedChain, address: str, value_sats: int) -> Transaction:
    """A deposit claimed straight to an address, blinded; a rest goes to BOB."""
    deposit = signed.deposit(ALICE.script, value_sats + FEE_SATS + 500)
    plain = signed.unsigned_claim(deposit, b"", 0)
    tx = blinded(
        plain.inputs,
        [deposit.amount_sats],
        [hidden_to(signed, address, value_sats), hidden_to(signed, bobs_address(signed), 500)],
        asset=signed.params.pegged_asset,
        fee_sats=FEE_SATS,
        seed=deposit.txid,
        input_witnesses=plain.input_witnesses,
    )
    claimed = Coin(
        asset=explicit_asset(signed.params.pegged_asset),
        value=explicit_value(deposit.amount_sats),
        script=ALICE.script,
        height=0,
        coinbase=False,
    )
    return ALICE.sign(tx, [claimed])


async def test_lwk_when_paid_and_pegged_in_and_paying_then_balances_are_right(
    signed: SignedChain, node: Served, wallet: LwkWallet
) -> None:
    assert await balance(wallet) == 0
    received = payment(signed, signed.mint(ALICE, 10**8), wallet.address(), 40_000_000)
    assert await node.post(received.raw.hex()) == (200, display(received.txid))
    assert await balance(wallet) == 40_000_000
    assert wallet.heights() == {display(received.txid): None}
    signed.extend([received])
    assert await balance(wallet) == 40_000_000
    assert wallet.heights() == {display(received.txid): 2}

    claim = blinded_claim(signed, wallet.address(), 2_000_000)
    assert await node.post(claim.raw.hex()) == (200, display(claim.txid))
    signed.extend(signed.chain.select_transactions())
    assert await balance(wallet) == 42_000_000
    assert wallet.heights()[display(claim.txid)] == 3

    txid = await asyncio.to_thread(wallet.pay, bobs_address(signed), 41_000_000)
    assert [display(tx.txid) for tx in node.relayed] == [
        display(received.txid),
        display(claim.txid),
        txid,
    ]
    left = await balance(wallet)
    fee_sats = wallet.fee_sats(txid)
    assert left == 1_000_000 - fee_sats
    assert 0 < fee_sats < 100  # lwk's own rate counts the discount for hidden outputs
    signed.extend(signed.chain.select_transactions())
    assert await balance(wallet) == left and wallet.heights()[txid] == 4
    assert signed.chain.mempool.txids() == []


async def test_lwk_when_scanning_then_a_bounded_number_of_requests(
    signed: SignedChain, node: Served, wallet: LwkWallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = node.server._run

    async def counted(request: object, handler: object) -> object:
        asked.append(request.path)  # type: ignore[attr-defined]
        return await real(request, handler)  # type: ignore[arg-type]

    monkeypatch.setattr(node.server, "_run", counted)
    signed.extend([payment(signed, signed.mint(ALICE, 10**8), wallet.address(), 5_000)])
    assert await balance(wallet) == 5_000
    kinds = {path.split("/")[1] for path in asked}
    assert kinds <= {"blocks", "block", "address", "tx", "block-height"}
    print(f"requests of a first scan: {len(asked)}")
    assert len(asked) <= SCAN_REQUESTS_MAX


async def test_lwk_when_history_has_pages_then_all_of_it_is_found(
    signed: SignedChain, node: Served, wallet: LwkWallet
) -> None:
    address, count = wallet.address(), 28
    source = signed.mint(ALICE, 10**8)
    fan = signed.payment(ALICE, [source], [(ALICE.script, 10_000)] * count)
    signed.extend([fan])
    paid = [payment(signed, OutPoint(fan.txid, i), address, 1_000 + i) for i in range(count)]
    signed.extend(paid[:20])
    signed.extend(paid[20:])
    assert await balance(wallet) == sum(1_000 + i for i in range(count))
    assert set(wallet.heights()) == {display(tx.txid) for tx in paid}


async def test_lwk_when_refused_then_it_shows_our_reason(
    signed: SignedChain, node: Served, wallet: LwkWallet
) -> None:
    signed.extend([payment(signed, signed.mint(ALICE, 10**8), wallet.address(), 50_000)])
    await balance(wallet)
    with pytest.raises(lwk.LwkError) as refused:
        await asyncio.to_thread(wallet.pay, bobs_address(signed), 1_000, 1)
    assert "400" in str(refused.value) and "min relay fee not met" in str(refused.value)


async def test_lwk_when_chain_turns_then_follows_the_new_one(
    signed: SignedChain, node: Served, wallet: LwkWallet
) -> None:
    point = signed.mint(ALICE, 10**8)
    received = payment(signed, point, wallet.address(), 70_000)
    signed.extend([received])
    assert await balance(wallet) == 70_000
    assert wallet.heights() == {display(received.txid): 2}
    signed.chain.disconnect_tip(NOW_S)
    signed.extend()
    assert await balance(wallet) == 70_000
    assert wallet.heights() == {display(received.txid): None}
    signed.extend(signed.chain.select_transactions())
    assert await balance(wallet) == 70_000
    assert wallet.heights() == {display(received.txid): 3}
