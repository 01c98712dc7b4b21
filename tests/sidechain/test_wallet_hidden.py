"""The wallet store over hidden outputs: opened, unknown, upgraded, looked for again."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sidechain.crypto.hashes import sha256
from sidechain.errors import InvariantError
from sidechain.primitives.address import Address
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.wallet.book import CLAIMS_WALLET, WalletBook
from sidechain.wallet.builder import Payment, build_payment
from sidechain.wallet.issuing import NewAsset, build_asset_burn, build_issuance, build_reissuance
from sidechain.wallet.keys import Branch, PrivateAccount, PublicAccount
from sidechain.wallet.records import KEY_SCHEMA, WalletRecord, wallet_key
from sidechain.wallet.sealing import ENTROPY_BYTES, seal, store_plain
from sidechain.wallet.selection import WalletRefusal
from tests.factories import ALICE
from tests.sidechain.followed_book import OTHER_SEED, SEED, Followed


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Followed]:
    followed = Followed(tmp_path)
    yield followed
    followed.close()


def confirmed(world: Followed, name: str, asset: bytes | None = None) -> int:
    return world.book.balances(name, asset).confirmed_sats


def mine(world: Followed, *transactions: Transaction) -> None:
    for tx in transactions:
        world.signed.chain.submit_tx(tx, _NoParent(), 0)
    world.signed.extend(transactions)
    world.follow()


class _NoParent:
    def block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
        """There is no parent chain here."""
        return None


def test_hidden_payment_when_mined_then_both_wallets_know_what_they_hold(world: Followed) -> None:
    world.receive(50_000)
    tx = world.pay_hidden("own", world.address("other"), 20_000)
    fee = tx.outputs[-1].value_sats or 0
    assert [out.asset_id for out in tx.outputs] == [None, None, world.params.pegged_asset]
    found = world.book.balances("other")
    assert (found.confirmed_sats, found.pending_in_sats, found.available_sats) == (0, 20_000, 0)
    assert world.book.balances("own").available_sats == 30_000 - fee
    mine(world, tx)
    assert confirmed(world, "other") == 20_000 and confirmed(world, "own") == 30_000 - fee
    (entry,) = world.book.history("other", 5)
    assert (entry.kind, entry.deltas) == ("receive", ((world.params.pegged_asset, 20_000),))
    assert world.book.history("own", 1)[0].kind == "send"
    before = world.book.spendable("other")
    world.reopen()
    assert world.book.spendable("other") == before
    assert confirmed(world, "own") == 30_000 - fee
    # hidden coins are spent like any other, also unconfirmed change
    back = world.pay_hidden("other", world.address("own"), 5_000)
    more = world.pay_hidden("other", world.address("own"), 6_000)
    mine(world, back, more)
    assert confirmed(world, "own") == 30_000 - fee + 11_000


def test_output_when_it_does_not_open_then_unknown_until_it_is_spent(world: Followed) -> None:
    world.receive(50_000)
    wrong = Address(
        world.address("other").script,
        PrivateAccount.from_seed(SEED).public.blinding_public_key(b"\x51"),
    )
    tx = world.pay_hidden("own", wrong, 20_000)
    mine(world, tx)
    wallet = world.book.wallet("other")
    assert confirmed(world, "other") == 0 and world.book.spendable("other") == []
    assert wallet.unknown == {OutPoint(tx.txid, 0)}
    (entry,) = world.book.history("other", 5)
    assert (entry.unknown, entry.deltas) == (1, ())
    world.reopen()
    wallet = world.book.wallet("other")
    assert wallet.unknown == {OutPoint(tx.txid, 0)}
    spend = Transaction.build(
        inputs=[replace(tx.inputs[0], prevout=OutPoint(tx.txid, 0))], outputs=[tx.outputs[-1]]
    )
    assert wallet.entry(spend, wallet.coins, 0, 9) is not None
    wallet.fold(spend, height=9, position=1, unix_time_s=0)
    assert wallet.unknown == set()


def test_asset_when_issued_grown_and_burned_then_balances_and_records_follow(
    world: Followed,
) -> None:
    world.receive(50_000)
    account = world.account("own").public
    new = NewAsset(asset_sats=1_000, token_sats=1, contract_hash=bytes(32), hidden=True)
    script = world.address("own").script
    coins = world.book.spendable("own")
    tx = world.keep(
        "own", build_issuance(new, coins, world.terms("own"), account, to_script=script)
    )
    (record,) = world.book.issuances("own")
    assert (record.asset_sats, record.txid) == (1_000, tx.txid)
    mine(world, tx)
    assert world.book.issuances("own") == [record]
    assert confirmed(world, "own", record.asset) == 1_000
    assert confirmed(world, "own", record.token) == 1
    coins = world.book.spendable("own")
    more = build_reissuance(record, 70, coins, world.terms("own"), account, to_script=script)
    mine(world, world.keep("own", more))
    coins = world.book.spendable("own")
    mine(world, world.keep("own", build_asset_burn(record.asset, 30, coins, world.terms("own"))))
    payment = Payment(
        script=ALICE.script, asset=record.asset, value_sats=500, blinding_key=ALICE.pubkey
    )
    coins = world.book.spendable("own")
    mine(world, world.keep("own", build_payment([payment], coins, world.terms("own"))))
    assert confirmed(world, "own", record.asset) == 1_000 + 70 - 30 - 500
    assert confirmed(world, "own", record.token) == 1
    kinds = [entry.kind for entry in world.book.history("own", 9)]
    assert kinds == ["receive", "issue", "reissue", "burn", "send"]
    world.reopen()
    assert {item.asset_sats for item in world.book.issuances("own")} == {1_000, 70}
    assert set(world.book.assets("own")) == {
        record.asset,
        record.token,
        world.params.pegged_asset,
    }


# ---- stores of schema 1 ----


def downgrade(world: Followed, name: str, stored_seed: bytes) -> None:
    """Make the store what the first release would have written."""
    wallet = world.book.wallet(name)
    record = WalletRecord(
        name=name, stored_seed=stored_seed, extended_key=wallet.account.extended_key
    )
    old = record.encode()[: -len(b"\0\0" + bytes(4))]
    assert WalletRecord.decode(old) == record
    world.book.write([(wallet_key(wallet.number), old), (KEY_SCHEMA, bytes([1, 0, 0, 0]))])


def test_store_of_schema_1_when_opened_then_plain_wallets_can_blind(world: Followed) -> None:
    world.receive(50_000)
    history, coins = world.book.history("own", 9), world.book.spendable("own")
    downgrade(world, "own", store_plain(SEED))
    for _ in range(2):  # the second time there is nothing left to do
        world.reopen()
        assert world.book.history("own", 9) == history
        assert world.book.spendable("own") == coins
        account = world.book.wallet("own").account
        full = PrivateAccount.from_seed(SEED).public
        assert account.master_blinding_key == full.master_blinding_key
        assert account.origin == full.origin


def test_sealed_wallet_of_schema_1_when_unlocked_then_it_can_blind(world: Followed) -> None:
    full = PrivateAccount.from_seed(OTHER_SEED).public
    sealed = seal(OTHER_SEED, "pass", full, bytes(range(1, ENTROPY_BYTES + 1)))
    downgrade(world, "other", sealed)
    world.reopen()
    assert world.book.wallet("other").account.master_blinding_key is None
    assert world.address("other").blinding_key is None
    world.book.learn_account("other", full)
    assert world.address("other").blinding_key is not None
    world.reopen()
    assert world.book.wallet("other").account.master_blinding_key == full.master_blinding_key


# ---- wallets with a history ----


def test_wallet_when_restored_then_its_history_is_found_block_by_block(world: Followed) -> None:
    world.receive(50_000)
    tx = world.pay_hidden("own", world.address("other"), 20_000)
    mine(world, tx)
    account = PrivateAccount.from_seed(SEED).public
    again = world.book.add("again", b"", account, rescan_height=0)
    assert again.is_watch_only and world.book.rescanning() == [again]
    with pytest.raises(InvariantError):
        world.book.rescan_block(again, world.signed.chain.block(1), 1)
    for height in range(world.signed.chain.tip_height):
        world.book.rescan_block(again, world.signed.chain.block(height), height)
    world.receive(7_000, "again")  # a new block does not go past the older ones
    assert confirmed(world, "again") == 50_000
    world.reopen()
    (again,) = world.book.rescanning()
    while (height := again.record.rescan_height) is not None:
        world.book.rescan_block(again, world.signed.chain.block(height), height)
    assert world.book.rescanning() == []
    assert confirmed(world, "again") == confirmed(world, "own")
    assert world.book.history("again", 99) == world.book.history("own", 99)
    mine(world, world.pay_hidden("own", world.address("other"), 1_000))
    assert confirmed(world, "again") == confirmed(world, "own")


def test_wallet_when_only_watching_without_blinding_key_then_hidden_outputs_are_unknown(
    world: Followed,
) -> None:
    bare = PublicAccount.decode(PrivateAccount.from_seed(OTHER_SEED).public.extended_key)
    watcher = world.book.add("watcher", b"", bare)
    world.receive(50_000)
    mine(world, world.pay_hidden("own", world.address("other"), 20_000))
    assert confirmed(world, "watcher") == 0 and len(watcher.unknown) == 1
    assert confirmed(world, "other") == 20_000


def test_claims_wallet_when_used_then_one_that_users_neither_see_nor_make(
    world: Followed,
) -> None:
    seed = sha256(b"claims")
    first = world.book.claims_wallet(seed)
    world.reopen()
    again = world.book.claims_wallet(sha256(b"ignored"))
    assert again.account.extended_key == first.account.extended_key
    assert CLAIMS_WALLET not in world.book.names
    assert world.book.take_script(CLAIMS_WALLET, Branch.CLAIM)[0] == 0
    with pytest.raises(WalletRefusal):
        world.book.add(CLAIMS_WALLET, store_plain(seed), first.account)


def test_store_when_a_later_schema_wrote_it_then_refused(world: Followed) -> None:
    world.book.write([(KEY_SCHEMA, bytes([3, 0, 0, 0]))])
    world.book.close()
    with pytest.raises(Exception, match="another version"):
        WalletBook.open(world.path / "wallets", world.params)
    world.book = WalletBook(world.book._database, world.params)
