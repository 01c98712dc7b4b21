"""Following both chains: lag, lost answers, late claims, resets, rebuilding (peg:3, peg:9)."""

import pytest

from peg.batches import CoinKind
from peg.bitcoind import BitcoindError
from peg.commitments import Commitment
from peg.ledger import PegLedger
from peg.parameters import LOCAL
from peg.records import HandoverRecord, OpenRecord, record_script
from sidechain.errors import InvariantError, Unavailable
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint, Transaction
from tests.peg.world import (
    Bitcoin,
    Sidechain,
    federation,
    p2wpkh_script,
    parent_tx,
    sidechain_params,
)

TO = p2wpkh_script("alice")


class Chains:
    """A Bitcoin, a sidechain and one ledger."""

    def __init__(self) -> None:
        self.script = federation()
        self.params = sidechain_params(self.script)
        self.bitcoin = Bitcoin()
        self.side = Sidechain(self.params, self.script)
        self.ledger = self.fresh()

    def fresh(self) -> PegLedger:
        return PegLedger(
            self.params, LOCAL, self.script, source=self.bitcoin, parent=self.bitcoin.view
        )

    def commitment(self, height: int, *, reset: bool = False) -> Commitment:
        block_hash = self.bitcoin.view.hash_at(height)
        assert block_hash is not None
        return Commitment(
            reset=reset, height=height, block_hash=block_hash, feerate_sats_per_kvb=2_000
        )

    def block(
        self,
        height: int,
        transactions: list[Transaction] | None = None,
        opens: list[OpenRecord] | None = None,
        *,
        reset: bool = False,
    ) -> None:
        commitment = self.commitment(height, reset=reset)
        self.ledger.apply(self.side.extend(commitment, transactions or [], opens or []))

    def rebuilt(self) -> PegLedger:
        ledger = self.fresh()
        for block in self.side.blocks:
            ledger.apply(block)
        return ledger

    def open(self) -> OutPoint:
        raw = self.bitcoin.pay(self.script.program, 5_000_000)
        self.bitcoin.mine([raw], count=8)
        self.block(7)
        anchor = OutPoint(parse_parent_tx(raw).txid, 0)
        self.block(7, opens=[OpenRecord(0, anchor)])
        return anchor


@pytest.fixture
def chains() -> Chains:
    return Chains()


async def test_state_waits_for_a_node_that_is_down_and_goes_on(chains: Chains) -> None:
    chains.open()
    chains.bitcoin.is_down = True
    with pytest.raises(Unavailable):
        await chains.ledger.advance()
    assert chains.ledger.view is None
    assert chains.ledger.history.height == 2
    chains.bitcoin.is_down = False
    await chains.ledger.advance()
    assert chains.ledger.is_current


async def test_answers_lost_in_the_middle_leave_no_hole(chains: Chains) -> None:
    """The node dies at each of its answers in turn; the result is the same."""
    chains.open()
    raw = chains.bitcoin.pay(chains.side.deposit_script(TO), 3_000_000)
    block_hash = chains.bitcoin.mine([raw])
    chains.bitcoin.mine(count=9)
    chains.block(10)
    chains.block(16, [chains.side.claim(chains.bitcoin, raw, block_hash, TO)])
    chains.block(17)
    whole = chains.rebuilt()
    await whole.advance()
    original = chains.bitcoin.raw_block
    for dies_at in range(12):
        answers = 0

        async def flaky(wanted: bytes, at: int = dies_at) -> bytes:
            nonlocal answers
            answers += 1
            if answers == at + 1:
                raise Unavailable("died")
            return await original(wanted)

        chains.bitcoin.raw_block = flaky  # type: ignore[method-assign]
        ledger = chains.rebuilt()
        while not ledger.is_current:
            try:
                await ledger.advance()
            except Unavailable:
                continue
        assert ledger.view is not None and whole.view is not None
        assert ledger.view.digest == whole.view.digest
        assert ledger.view.coins == whole.view.coins


async def test_claim_learnt_after_its_block_was_read_is_a_coin(chains: Chains) -> None:
    chains.open()
    raw = chains.bitcoin.pay(chains.side.deposit_script(TO), 3_000_000)
    block_hash = chains.bitcoin.mine([raw])
    chains.bitcoin.mine(count=9)
    chains.block(16)
    await chains.ledger.advance()
    chains.block(16, [chains.side.claim(chains.bitcoin, raw, block_hash, TO)])
    await chains.ledger.advance()
    view = chains.ledger.view
    assert view is not None
    assert sorted(coin.value_sats for coin in view.coins) == [3_000_000, 5_000_000]
    assert view.book.difference_sats == 0


async def test_donation_counts_only_at_depth(chains: Chains) -> None:
    """Planted bug 25."""
    chains.open()
    chains.bitcoin.mine([chains.bitcoin.pay(chains.script.program, 70_000)], count=10)
    for height, count in ((9, 1), (13, 1), (14, 2)):
        chains.block(height)
        await chains.ledger.advance()
        view = chains.ledger.view
        assert view is not None and len(view.coins) == count
        assert view.book.difference_sats == 0


async def test_donation_of_a_coinbase_counts_only_when_it_can_be_spent(chains: Chains) -> None:
    """Younger it would be an input that no block may hold, and the lane would stand still."""
    chains.open()
    chains.bitcoin.miner_script = chains.script.program
    chains.bitcoin.mine()
    chains.bitcoin.miner_script = TO
    made_at = chains.bitcoin.view.tip_height
    chains.bitcoin.mine(count=120)
    chains.block(made_at + 98)
    await chains.ledger.advance()
    view = chains.ledger.view
    assert view is not None
    assert [coin.kind for coin in view.coins] == [CoinKind.ANCHOR]
    chains.block(made_at + 99)
    await chains.ledger.advance()
    view = chains.ledger.view
    assert view is not None
    assert sorted(coin.kind for coin in view.coins) == [CoinKind.ANCHOR, CoinKind.DONATION]
    assert view.book.difference_sats == 0


async def test_unclaimed_deposit_is_no_coin(chains: Chains) -> None:
    chains.open()
    raw = chains.bitcoin.pay(chains.side.deposit_script(TO), 3_000_000)
    chains.bitcoin.mine([raw], count=10)
    chains.block(17)
    await chains.ledger.advance()
    assert chains.ledger.view is not None and len(chains.ledger.view.coins) == 1


async def test_vanished_deposit_is_counted_and_comes_back(chains: Chains) -> None:
    chains.open()
    raw = chains.bitcoin.pay(chains.side.deposit_script(TO), 9_000_000)
    fork = chains.bitcoin.tip
    block_hash = chains.bitcoin.mine([raw])
    old = chains.bitcoin.mine(count=9)
    chains.block(16, [chains.side.claim(chains.bitcoin, raw, block_hash, TO)])
    await chains.ledger.advance()
    at = fork
    for _ in range(14):
        at = chains.bitcoin.grow(at)
    chains.bitcoin.activate(at)
    chains.block(18, reset=True)
    await chains.ledger.advance()
    view = chains.ledger.view
    assert view is not None
    assert view.book.vanished_sats == 9_000_000
    assert view.book.difference_sats == 0
    assert view.book.pool_sats < 0 and {"X4_POOL", "X4_VANISHED"} <= set(view.halts)
    for _ in range(12):
        old = chains.bitcoin.grow(old)
    chains.bitcoin.activate(old)
    chains.block(20, reset=True)
    await chains.ledger.advance()
    view = chains.ledger.view
    assert view is not None
    assert (view.book.vanished_sats, view.book.difference_sats, view.halts) == (0, 0, ())


async def test_anchor_funding_reorged_away_stops_the_lane_and_returns(chains: Chains) -> None:
    anchor_raw = chains.bitcoin.pay(chains.script.program, 5_000_000)
    fork = chains.bitcoin.tip
    old = chains.bitcoin.mine([anchor_raw], count=8)
    chains.block(7)
    chains.block(7, opens=[OpenRecord(0, OutPoint(parse_parent_tx(anchor_raw).txid, 0))])
    at = fork
    for _ in range(12):
        at = chains.bitcoin.grow(at)
    chains.bitcoin.activate(at)
    chains.block(8, reset=True)
    await chains.ledger.advance()
    view = chains.ledger.view
    assert view is not None
    assert (view.coins, view.idle) == ((), "NO_LANE")
    assert view.book.difference_sats == 0
    for _ in range(9):
        old = chains.bitcoin.grow(old)
    chains.bitcoin.activate(old)
    chains.block(13, reset=True)
    await chains.ledger.advance()
    view = chains.ledger.view
    assert view is not None and len(view.coins) == 1


async def test_heights_before_the_last_reset_are_not_needed(chains: Chains) -> None:
    """A fresh Bitcoin node has no orphaned blocks; recovery must not ask for them (peg:9)."""
    chains.open()
    fork = chains.bitcoin.tip
    stale = [chains.bitcoin.mine() for _ in range(4)]
    chains.block(11)
    await chains.ledger.advance()
    at = fork
    for _ in range(8):
        at = chains.bitcoin.grow(at)
    chains.bitcoin.activate(at)
    chains.block(12, reset=True)
    chains.block(13)
    await chains.ledger.advance()
    for block_hash in stale:
        del chains.bitcoin.blocks[block_hash]
    fresh = chains.rebuilt()
    await fresh.advance()
    assert fresh.view is not None and chains.ledger.view is not None
    assert fresh.view.digest == chains.ledger.view.digest


async def test_unknown_committed_block_keeps_the_state_where_it_was(chains: Chains) -> None:
    chains.open()
    await chains.ledger.advance()
    height = chains.ledger.view and chains.ledger.view.height
    stranger = Commitment(
        reset=False, height=9, block_hash=b"\x09" * 32, feerate_sats_per_kvb=2_000
    )
    chains.ledger.apply(chains.side.extend(stranger))
    with pytest.raises(BitcoindError):
        await chains.ledger.advance()
    assert chains.ledger.view is not None and chains.ledger.view.height == height


async def test_lane_broken_by_a_foreign_spend_halts(chains: Chains) -> None:
    anchor = chains.open()
    chains.bitcoin.mine([parent_tx([anchor], [(4_999_000, chains.script.program)])], count=3)
    chains.block(10)
    await chains.ledger.advance()
    view = chains.ledger.view
    assert view is not None and view.lane is not None
    assert view.lane.broken_by is not None
    assert "X2" in view.halts
    assert view.open_batch is None


def test_final_block_the_peg_cannot_read_stops_the_node(chains: Chains) -> None:
    chains.bitcoin.mine(count=8)
    commitment = chains.commitment(7)
    handover = HandoverRecord(0, bytes(32))
    with pytest.raises(InvariantError):
        chains.ledger.apply(chains.side.block([commitment.script(), record_script(handover)]))
    with pytest.raises(InvariantError):
        chains.ledger.apply(chains.side.block([]))
    with pytest.raises(InvariantError):
        chains.ledger.apply(chains.side.block([commitment.script()], height=2))


async def test_more_is_burned_than_ever_came_in_halts_for_ever(chains: Chains) -> None:
    """X5: inflation is proved by the sidechain alone."""
    chains.open()
    chains.block(7, [chains.side.burn(TO, 20_000)])
    chains.block(7)
    await chains.ledger.advance()
    view = chains.ledger.view
    assert view is not None
    assert "X5" in view.halts
    assert view.open_batch is None
