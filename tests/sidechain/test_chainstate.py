"""The stored chain: the recorded coin set to the hash, undo to the byte, and crashes."""

import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import plyvel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidechain.errors import Invalid, InvariantError, Unavailable
from sidechain.primitives.block import Block
from sidechain.primitives.encoding import le32
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn
from sidechain.storage import schema
from sidechain.storage.chainstate import ChainState
from sidechain.storage.leveldb import Database
from sidechain.validation.coins import Coin
from sidechain.validation.connect import BlockDelta
from tests.factories import (
    ALICE,
    BOB,
    SignedChain,
    Wallet,
    federation_params,
    output,
    unjudged_delta,
)
from tests.vectors import chain_json, display, recorded_blocks, recorded_params

REPOSITORY = Path(__file__).resolve().parents[2]


def coin_set_hash(state: ChainState) -> str:
    digest = sha256()
    for point, coin in state.coins():
        place = point.serialize() + le32(coin.height << 1 | coin.coinbase)
        digest.update(place + coin.output.serialize())
    return display(sha256(digest.digest()).digest())


def test_recorded_chain_when_stored_and_undone_then_coin_sets_agree(tmp_path: Path) -> None:
    blocks = recorded_blocks()
    expected = {e["height"]: e["hash_serialized_3"] for e in chain_json("utxo.json")}
    state = ChainState.open(tmp_path / "chain", recorded_params())
    checked = 0
    for block in blocks[1:]:
        state.connect(block, unjudged_delta(block, state, recorded_params()))
        if state.tip_height in expected:
            assert coin_set_hash(state) == expected[state.tip_height]["hash_serialized_3"]
            assert sum(1 for _ in state.coins()) == expected[state.tip_height]["txouts"]
            checked += 1
    assert checked == len(expected)
    for tx in blocks[-1].transactions:
        assert state.find_transaction(tx.txid) == (tx, len(blocks) - 1)
    while state.tip_height:
        if state.tip_height in expected:
            assert coin_set_hash(state) == expected[state.tip_height]["hash_serialized_3"]
        state.disconnect()
    assert state.tip_hash == blocks[0].hash
    state.close()
    print(f"recorded coin sets compared: {2 * checked}")


def dump(state: ChainState) -> dict[bytes, bytes]:
    return dict(state._database.items(b""))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 7), st.integers(1, 3), st.booleans()), max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_undo_when_any_small_chain_then_same_database_as_before(
    tmp_path_factory: pytest.TempPathFactory, plan: list[list[tuple[int, int, bool]]]
) -> None:
    signed = SignedChain.open(tmp_path_factory.mktemp("undo") / "chain")
    state = signed.chain._state
    coins = [signed.mint(ALICE, 1_000_000 * (i + 1)) for i in range(2)]
    before = [dump(state)]
    for shapes in plan:
        transactions = []
        for choice, outputs, with_pegin in shapes:
            if with_pegin:
                deposit = signed.deposit(ALICE.script, 50_000)
                transactions.append(signed.claim(deposit, ALICE))
                coins.append(OutPoint(transactions[-1].txid, 0))
            if not coins:
                continue
            source = coins.pop(choice % len(coins))
            coin = signed.chain.coin(source) or next(
                Coin.of(tx.outputs[source.index], height=1, coinbase=False)
                for tx in transactions
                if tx.txid == source.txid
            )
            tx = split(signed, ALICE, source, coin, outputs)
            transactions.append(tx)
            coins += [OutPoint(tx.txid, i) for i in range(outputs)]
        signed.extend(transactions)
        before.append(dump(state))
    for expected in reversed(before):
        assert dump(state) == expected
        if expected is not before[0]:
            state.disconnect()
    signed.chain.close()


def split(signed: SignedChain, owner: Wallet, source: OutPoint, coin: Coin, count: int) -> Any:
    """Spend one coin, confirmed or made in the same block, into several."""

    fee = 300
    each = ((coin.output.value_sats or 0) - fee) // count
    rest = (coin.output.value_sats or 0) - each * count
    outputs = [output(signed.params, owner.script, each) for _ in range(count)]
    outputs.append(output(signed.params, b"", rest))
    tx = Transaction.build(inputs=[TxIn(source)], outputs=outputs)
    return owner.sign(tx, [coin])


def test_open_when_new_then_genesis_only(tmp_path: Path) -> None:
    params = federation_params()
    state = ChainState.open(tmp_path / "a" / "chain", params)
    assert (state.tip_height, state.tip_hash) == (0, params.genesis_hash)
    assert Block.decode(state.block_bytes(0), params).hash == params.genesis_hash
    assert state.height_of(params.genesis_hash) == 0
    with pytest.raises(InvariantError):
        state.disconnect()
    with pytest.raises(InvariantError):
        state.header(1)
    state.close()


def test_open_when_free_coins_then_they_are_coins(tmp_path: Path) -> None:
    params = federation_params(initial_free_coins_sats=5_000)
    state = ChainState.open(tmp_path / "chain", params)
    ((_, coin),) = state.coins()
    assert (coin.output.value_sats, coin.coinbase) == (5_000, False)
    state.close()


def test_open_when_other_chain_or_version_then_refused(tmp_path: Path) -> None:
    ChainState.open(tmp_path / "chain", federation_params()).close()
    with pytest.raises(Invalid) as refused:
        ChainState.open(tmp_path / "chain", federation_params(name="other"))
    assert refused.value.reason == "database-genesis"
    with Database(tmp_path / "chain") as database:
        database.write({schema.VERSION_KEY: le32(99)})
    with pytest.raises(Invalid) as refused:
        ChainState.open(tmp_path / "chain", federation_params())
    assert refused.value.reason == "database-version"
    with Database(tmp_path / "foreign") as database:
        database.write({b"something": b"else"})
    with pytest.raises(Invalid):
        ChainState.open(tmp_path / "foreign", federation_params())


def test_open_when_tip_does_not_fit_then_invariant_error(tmp_path: Path) -> None:
    ChainState.open(tmp_path / "chain", federation_params()).close()
    with Database(tmp_path / "chain") as database:
        database.write({schema.TIP_KEY: schema.pack_tip(0, b"\1" * 32)})
    with pytest.raises(InvariantError):
        ChainState.open(tmp_path / "chain", federation_params())
    # The failed opening let go of the folder.
    Database(tmp_path / "chain").close()


@pytest.mark.parametrize("failure", ["before", "inside"])
def test_write_when_interrupted_then_old_tip_after_reopening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    signed = SignedChain.open(tmp_path / "chain")
    signed.mint(ALICE, 10**8)
    state = signed.chain._state
    expected, tip = dump(state), state.tip_hash
    block = signed.sign(signed.template())
    if failure == "before":
        monkeypatch.setattr(state._database, "write", _raise)
    else:
        monkeypatch.setattr(state._database, "_db", _HalfWriting(state._database._db))
    with pytest.raises((Unavailable, OSError)):
        signed.chain.connect(block)
    monkeypatch.undo()
    assert (state.tip_hash, dump(state)) == (tip, expected)
    signed.chain.close()
    again = SignedChain.open(tmp_path / "chain")
    assert dump(again.chain._state) == expected
    again.chain.connect(block)
    assert again.chain.tip_height == 2
    again.chain.close()


def _raise(*_: Any) -> None:
    raise OSError("power is gone")


class _HalfWriting:
    """A database whose batches fail after their first put."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def write_batch(self, **options: Any) -> Any:
        real = self._real.write_batch(**options)

        class Batch:
            def __enter__(self) -> Any:
                real.__enter__()
                return self

            def __exit__(self, *error: Any) -> Any:
                return real.__exit__(*error)

            def put(self, key: bytes, value: bytes) -> None:
                real.put(key, value)
                raise plyvel.IOError("disk is gone")

        return Batch()


def test_process_when_killed_while_writing_then_folder_opens_at_a_whole_block(
    tmp_path: Path,
) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from tests.factories import SignedChain\n"
        "signed = SignedChain.open(Path(sys.argv[1]))\n"
        "while True:\n"
        "    signed.extend(); print(signed.chain.tip_height, flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "chain")],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        text=True,
    )
    assert child.stdout is not None
    with child.stdout:
        while (written := int(child.stdout.readline())) < 20:
            pass
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=30)
        rest = child.stdout.read().split()
    written = int(rest[-1]) if rest else written
    signed = SignedChain.open(tmp_path / "chain")
    assert signed.chain.tip_height >= written
    block = signed.chain.block(signed.chain.tip_height)
    assert block.hash == signed.chain.tip_hash
    signed.extend()
    signed.chain.close()


def test_connect_when_changes_are_of_another_block_then_invariant_error(tmp_path: Path) -> None:
    signed = SignedChain.open(tmp_path / "chain")
    first = signed.sign(signed.template())
    delta = signed.chain.connect(first)
    state = signed.chain._state
    with pytest.raises(InvariantError):
        state.connect(first, delta)
    second = signed.sign(signed.template())
    other = BlockDelta(
        height=2,
        hash=first.hash,
        prev_hash=state.tip_hash,
        spent=(),
        created=(),
        pegins=(),
        fees=(),
    )
    with pytest.raises(InvariantError):
        state.connect(second, other)
    signed.chain.close()


def test_undo_when_record_is_damaged_then_invariant_error(tmp_path: Path) -> None:
    signed = SignedChain.open(tmp_path / "chain")
    signed.mint(BOB, 10**6)
    state = signed.chain._state
    state._database.write({schema.undo_key(1): b"\0" * 40})
    with pytest.raises(InvariantError):
        state.disconnect()
    assert state.tip_height == 1
    signed.chain.close()
