"""The wallet store over a real signed chain: coins, pending transactions, crash and reopen."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sidechain.errors import Invalid, InvalidBlock, Unavailable
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn
from sidechain.wallet.book import WalletBook
from sidechain.wallet.builder import Payment, Terms, build_payment, sign
from sidechain.wallet.keys import Branch, PrivateAccount, PublicAccount
from sidechain.wallet.records import PREFIX_FOREIGN, Cursor
from sidechain.wallet.sealing import ENTROPY_BYTES, seal, store_plain
from sidechain.wallet.selection import WalletRefusal
from sidechain.wallet.wallet import LOOKAHEAD
from tests.factories import ALICE, FEE_SATS, federation_params, output
from tests.sidechain.followed_book import NOW_S, SEED, Followed


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Followed]:
    followed = Followed(tmp_path)
    yield followed
    followed.close()


def numbers(world: Followed, name: str) -> tuple[int, int, int, int]:
    found = world.book.balances(name)
    return (
        found.confirmed_sats,
        found.pending_in_sats,
        found.pending_out_sats,
        found.available_sats,
    )


def test_receiving_when_block_is_folded_then_confirmed_and_in_history(world: Followed) -> None:
    txid = world.receive(50_000)
    assert numbers(world, "own") == (50_000, 0, 0, 50_000)
    assert numbers(world, "other") == (0, 0, 0, 0)
    (entry,) = world.book.history("own", 10)
    assert (entry.txid, entry.kind, entry.fee_sats) == (txid, "receive", 0)
    assert entry.deltas == ((world.params.pegged_asset, 50_000),)
    assert entry.height == world.signed.chain.tip_height


def test_payment_when_recorded_then_pending_until_its_block(world: Followed) -> None:
    world.receive(50_000)
    target = world.book.take_script("other", Branch.RECEIVE)[1]
    tx = world.pay("own", target, 20_000)
    fee = sum(o.value_sats or 0 for o in tx.outputs if o.is_fee)
    change = 50_000 - 20_000 - fee
    assert numbers(world, "own") == (50_000, 0, 20_000 + fee, change)
    assert numbers(world, "other") == (0, 20_000, 0, 0)
    world.signed.extend([tx])
    (report,) = world.follow()
    assert report.final == (tx.txid,) and report.dead == ()
    assert numbers(world, "own") == (change, 0, 0, change)
    assert numbers(world, "other") == (20_000, 0, 0, 20_000)
    entry = world.book.history("own", 1)[0]
    assert (entry.kind, entry.fee_sats) == ("send", fee)
    assert entry.deltas == ((world.params.pegged_asset, -20_000 - fee),)


def test_change_when_unconfirmed_then_may_be_spent_again(world: Followed) -> None:
    world.receive(50_000)
    first = world.pay("own", ALICE.script, 10_000)
    second = world.pay("own", ALICE.script, 10_000)
    assert {i.prevout.txid for i in second.inputs} == {first.txid}
    assert world.book.pending() == [first, second]
    world.signed.extend([first, second])
    (report,) = world.follow()
    assert report.final == (first.txid, second.txid)


def test_pending_when_store_is_reopened_then_still_there_in_order(world: Followed) -> None:
    world.receive(50_000)
    made = [world.pay("own", ALICE.script, 9_000) for _ in range(3)]
    before = numbers(world, "own")
    history = world.book.history("own", 10)
    world.reopen()
    assert world.book.pending() == made
    assert numbers(world, "own") == before
    assert world.book.history("own", 10) == history


def test_everything_when_reopened_at_every_block_then_as_if_never_closed(
    world: Followed,
) -> None:
    for amount in (10_000, 20_000, 30_000):
        world.receive(amount)
        world.signed.extend([world.pay("own", ALICE.script, 5_000)])
        world.follow()
        world.reopen()
    fees = sum(entry.fee_sats for entry in world.book.history("own", 100))
    assert numbers(world, "own")[0] == 60_000 - 15_000 - fees
    assert len(world.book.history("own", 100)) == 6
    assert world.book.history("own", 2) == world.book.history("own", 100)[-2:]


def test_pending_when_its_coin_is_spent_otherwise_then_it_and_its_child_are_dead(
    world: Followed,
) -> None:
    world.receive(50_000)
    coins = world.book.spendable("own")
    first = world.pay("own", ALICE.script, 10_000)
    child = world.pay("own", ALICE.script, 10_000)
    account = PrivateAccount.from_seed(SEED)
    draft = build_payment(
        [Payment(script=ALICE.script, asset=world.params.pegged_asset, value_sats=40_000)],
        coins,
        Terms(
            params=world.params,
            change_script=account.public.script(Branch.CHANGE, 9),
            change_blinding_key=None,
            rate_sats_per_kvb=100,
            entropy=SEED,
        ),
    )
    rival = sign(draft, lambda coin: account.secret(coin.branch, coin.index), world.params)
    world.signed.extend([rival])
    (report,) = world.follow()
    assert report.dead == (first.txid, child.txid)
    assert world.book.pending() == []
    assert numbers(world, "own")[0] == numbers(world, "own")[3] == 50_000 - 40_000 - draft.fee_sats
    world.reopen()
    assert world.book.pending() == []


def test_pending_when_abandoned_then_its_coins_are_free_and_children_gone(
    world: Followed,
) -> None:
    world.receive(50_000)
    first = world.pay("own", ALICE.script, 10_000)
    child = world.pay("own", ALICE.script, 10_000)
    assert world.book.abandon(first.txid) == (first.txid, child.txid)
    assert numbers(world, "own") == (50_000, 0, 0, 50_000)
    world.reopen()
    assert world.book.pending() == []


def test_abandoned_when_it_becomes_final_all_the_same_then_counted(world: Followed) -> None:
    world.receive(50_000)
    tx = world.pay("own", ALICE.script, 10_000)
    world.book.abandon(tx.txid)
    world.signed.extend([tx])
    world.follow()
    fee = sum(o.value_sats or 0 for o in tx.outputs if o.is_fee)
    assert numbers(world, "own") == (40_000 - fee, 0, 0, 40_000 - fee)


def test_foreign_mempool_transaction_when_seen_then_pending_but_not_spendable(
    world: Followed,
) -> None:
    source = world.signed.mint(ALICE, 30_000)
    world.follow()
    _, script = world.book.take_script("own", Branch.RECEIVE)
    tx = world.signed.payment(ALICE, [source], [(script, 20_000)])
    world.book.set_seen([(tx, NOW_S)])
    assert numbers(world, "own") == (0, 20_000, 0, 0)
    assert world.book.history("own", 5)[0].height is None


def test_pegin_prevout_when_equal_to_an_own_coin_then_does_not_spend_it(world: Followed) -> None:
    txid = world.receive(50_000)
    (owned,) = world.book.spendable("own")
    claim = Transaction.build(
        inputs=[TxIn(OutPoint(txid, owned.outpoint.index), is_pegin=True)],
        outputs=[output(world.params, ALICE.script, 1_000)],
    )
    assert world.book.wallet("own").fold(claim, height=9, position=1, unix_time_s=0) == []
    assert world.book.spendable("own") == [owned]


def test_lookahead_when_an_unissued_address_is_paid_then_found_and_issued(
    world: Followed,
) -> None:
    wallet = world.book.wallet("own")
    last = wallet.account.script(Branch.RECEIVE, LOOKAHEAD - 1)
    beyond = wallet.account.script(Branch.RECEIVE, 2 * LOOKAHEAD - 1)
    out_of_reach = wallet.account.script(Branch.RECEIVE, 4 * LOOKAHEAD)
    for script in (last, beyond, out_of_reach):
        source = world.signed.mint(ALICE, 10_000 + FEE_SATS)
        world.signed.extend([world.signed.payment(ALICE, [source], [(script, 10_000)])])
    world.follow()
    assert numbers(world, "own")[0] == 20_000
    assert wallet.issued(Branch.RECEIVE) == 2 * LOOKAHEAD
    world.reopen()
    assert world.book.take_script("own", Branch.RECEIVE)[0] == 2 * LOOKAHEAD


def test_addresses_when_store_is_reopened_then_never_handed_out_twice(world: Followed) -> None:
    issued = []
    for _ in range(4):
        issued += [world.book.take_script("own", branch)[1] for branch in Branch]
        world.reopen()
    assert len(set(issued)) == 12


def test_block_when_it_does_not_follow_then_refused_and_nothing_changes(world: Followed) -> None:
    world.receive(50_000)
    block = world.signed.chain.block(1)
    for height in (1, world.signed.chain.tip_height + 1):
        with pytest.raises(InvalidBlock):
            world.book.apply_block(block, height)
    assert numbers(world, "own")[0] == 50_000


def test_extra_writes_when_given_with_a_block_or_transaction_then_kept(world: Followed) -> None:
    world.receive(50_000)
    tx = world.pay("own", ALICE.script, 1_000)
    world.book.record_pending(tx, NOW_S, [(PREFIX_FOREIGN + b"a", b"1")])
    world.signed.extend([tx])
    height = world.signed.chain.tip_height
    world.book.apply_block(
        world.signed.chain.block(height), height, [(PREFIX_FOREIGN + b"b", b"2")]
    )
    world.reopen()
    assert list(world.book.records(b"")) == [
        (PREFIX_FOREIGN + b"a", b"1"),
        (PREFIX_FOREIGN + b"b", b"2"),
    ]


def test_store_when_open_elsewhere_or_of_another_chain_then_refused(
    world: Followed, tmp_path: Path
) -> None:
    with pytest.raises(Unavailable):
        world.open_book()
    world.book.close()
    with pytest.raises(Invalid, match="another chain"):
        WalletBook.open(tmp_path / "wallets", federation_params(name="elsewhere"))
    world.book = world.open_book()


def test_start_when_cursor_is_set_then_earlier_blocks_are_not_asked_for(world: Followed) -> None:
    world.signed.mint(ALICE, 10_000)
    chain = world.signed.chain
    world.book.start_at(Cursor(chain.tip_height, chain.tip_hash))
    world.receive(5_000)
    assert numbers(world, "own")[0] == 5_000
    world.book.start_at(Cursor(0, bytes(32)))
    assert world.book.cursor == Cursor(chain.tip_height, chain.tip_hash)


@pytest.mark.parametrize("name", ["", "a/b", " a", "a\n", "x" * 65, "own"])
def test_name_when_unfit_or_taken_then_refused(world: Followed, name: str) -> None:
    account = PrivateAccount.from_seed(SEED).public
    with pytest.raises(WalletRefusal):
        world.book.add(name, store_plain(SEED), account)


def test_encrypted_wallet_when_stored_then_no_file_holds_its_seed(tmp_path: Path) -> None:
    seed = bytes((7 * i + 3) % 256 for i in range(32))
    account = PrivateAccount.from_seed(seed)
    stored = seal(seed, "pass", account.public, bytes(range(1, ENTROPY_BYTES + 1)))
    book = WalletBook.open(tmp_path / "wallets", federation_params())
    book.add("safe", stored, account.public)
    for _ in range(50):
        book.take_script("safe", Branch.RECEIVE)
    book.close()
    assert (tmp_path / "wallets").stat().st_mode & 0o777 == 0o700
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    content = b"".join(path.read_bytes() for path in files)
    assert stored in content
    secret = account.secret(Branch.RECEIVE, 0).value
    for forbidden in (seed, seed.hex().encode(), secret, b"pass", seed[:16]):
        assert forbidden not in content
    again = WalletBook.open(tmp_path / "wallets", federation_params())
    record = again.wallet("safe").record
    assert record.stored_seed == stored
    assert PublicAccount.decode(record.extended_key).script(Branch.CHANGE, 3) == (
        account.public.script(Branch.CHANGE, 3)
    )
    again.close()
