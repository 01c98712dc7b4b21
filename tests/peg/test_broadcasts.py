"""Assembled batches on their way into Bitcoin (peg:P29, P34, P35)."""

import pytest

from peg.broadcasts import Broadcasts, SignedVersion
from sidechain.errors import Unavailable
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.peg.world import Bitcoin, p2wpkh_script, parent_tx

TO = p2wpkh_script("to")


class Funded:
    """A Bitcoin with an anchor and a second coin."""

    def __init__(self) -> None:
        self.bitcoin = Bitcoin()
        raws = [self.bitcoin.pay(TO, 100_000), self.bitcoin.pay(TO, 50_000)]
        self.anchor, self.coin = (OutPoint(parse_parent_tx(raw).txid, 0) for raw in raws)
        self.bitcoin.mine(raws)
        self.broadcasts = Broadcasts(self.bitcoin)

    def version(self, number: int, fee_sats: int, *more: OutPoint) -> SignedVersion:
        raw = parent_tx([self.anchor, *more], [(100_000 - fee_sats, TO)])
        return SignedVersion(
            version=number, fee_sats=fee_sats, txid=parse_parent_tx(raw).txid, raw=raw
        )

    async def send(self, *versions: SignedVersion) -> None:
        for version in versions:
            self.broadcasts.add(self.anchor, version)
        await self.broadcasts.send_all()

    def state(self) -> tuple[bytes, int, str]:
        found = self.broadcasts.state(self.anchor)
        assert found is not None
        return found.txid, found.confirmations, found.refusal


@pytest.fixture
def funded() -> Funded:
    return Funded()


async def test_highest_version_is_sent_and_stays(funded: Funded) -> None:
    low, high = funded.version(0, 1_000), funded.version(1, 2_000)
    await funded.send(high, low)
    assert set(funded.bitcoin.mempool) == {high.txid}
    await funded.send()
    assert funded.state() == (high.txid, 0, "")


async def test_evicted_batch_is_sent_again(funded: Funded) -> None:
    version = funded.version(0, 1_000)
    await funded.send(version)
    funded.bitcoin.mempool.clear()
    await funded.send()
    assert set(funded.bitcoin.mempool) == {version.txid}


async def test_version_that_pays_too_little_waits_for_the_next(funded: Funded) -> None:
    pin = parent_tx([funded.anchor], [(1, TO)])
    await funded.bitcoin.send_raw_transaction(pin)
    await funded.send(funded.version(0, 1_000))
    assert funded.state()[2] == "insufficient fee"


async def test_any_version_may_confirm_and_nothing_is_sent_then(funded: Funded) -> None:
    low, high = funded.version(0, 1_000), funded.version(1, 2_000)
    await funded.send(low, high)
    funded.bitcoin.mempool.clear()
    funded.bitcoin.mine([low.raw], count=3)
    await funded.send()
    assert funded.state() == (low.txid, 3, "")
    assert not funded.bitcoin.mempool


async def test_version_with_a_vanished_coin_makes_room_for_a_lower_one(funded: Funded) -> None:
    """After a RESET an old version may be dead on the new chain while the new one is not."""
    dead = funded.version(3, 9_000, OutPoint(b"\x07" * 32, 0))
    alive = funded.version(0, 1_000)
    await funded.send(dead, alive)
    assert set(funded.bitcoin.mempool) == {alive.txid}
    assert funded.state() == (alive.txid, 0, "")


async def test_same_version_is_kept_once_and_dropped_when_deep(funded: Funded) -> None:
    version = funded.version(0, 1_000)
    assert funded.broadcasts.add(funded.anchor, version)
    assert not funded.broadcasts.add(funded.anchor, version)
    assert funded.broadcasts.versions(funded.anchor) == (version,)
    funded.broadcasts.drop(funded.anchor)
    assert funded.broadcasts.anchors() == ()


async def test_node_that_is_down_is_told(funded: Funded) -> None:
    funded.broadcasts.add(funded.anchor, funded.version(0, 1_000))
    funded.bitcoin.is_down = True
    with pytest.raises(Unavailable):
        await funded.broadcasts.send_all()
