"""What a wallet signs so that operators can give a late deposit back (C9)."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peg.records import ReturnRecord
from peg.returns import read_details
from peg.status import parse_outpoint
from sidechain.api.registry import RpcError
from sidechain.crypto.hashes import sha256
from sidechain.errors import InvalidEncoding
from sidechain.primitives.address import decode_address
from tests.federation.wallet_world import World, coins

DEPOSIT_SATS = 700_000
BACK = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
FED = b"\x00\x20" + bytes(32)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.turn()
    yield made
    made.close()
    made.federation.signed.chain.close()


async def test_proof_when_the_deposit_is_the_wallets_then_members_take_it(world: World) -> None:
    await world.call("createwallet", "alice")
    made = await world.call("pegin", "alice", coins(DEPOSIT_SATS))
    await world.turn()
    await world.mine(2)
    view = await world.call("getpegin", made["id"])
    proof = await world.call("provereturn", made["id"], BACK)
    assert proof["deposit"] == view["deposit"]
    assert await world.call("provereturn", view["deposit"], BACK) == proof
    script = decode_address(BACK, world.params.parent_prefixes).script
    record = ReturnRecord(parse_outpoint(proof["deposit"]), sha256(script))
    details = read_details(record, proof, world.params.genesis_hash, FED)
    assert details.return_script == script
    with pytest.raises(InvalidEncoding):
        read_details(record, {**proof, "proof": proof["proof"][:-2] + "00"}, bytes(32), FED)


async def test_proof_when_nothing_was_deposited_then_refused(world: World) -> None:
    await world.call("createwallet", "alice")
    with pytest.raises(RpcError, match="there is no peg-in"):
        await world.call("provereturn", "in-7", BACK)
    shown = await world.call("getpeginaddress", "alice")
    with pytest.raises(RpcError):
        await world.call("provereturn", shown["address"], BACK)
    made = await world.call("pegin", "alice", coins(DEPOSIT_SATS))
    await world.turn()
    await world.mine(1)
    with pytest.raises(RpcError):
        await world.call("provereturn", made["id"], "no address")
