"""The user's peg operations in the wallet store, indexed in memory.

Keys, all below the store's own prefix for its owner: `a` deposit script, `i` BE32 peg-in number,
`o` BE32 peg-out number, `t` Bitcoin cursor, `h` BE32 height: hash of a followed Bitcoin block.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from federation.wallet.pegs import (
    Deposit,
    DepositAddress,
    Pegin,
    Pegout,
    Receiver,
    decode_address,
    decode_pegin,
    decode_pegout,
    encode_address,
    encode_pegin,
    encode_pegout,
)
from sidechain.primitives.block import Block
from sidechain.primitives.parent import ParentBlock, ParentTx, build_merkle_block
from sidechain.primitives.transaction import OutPoint
from sidechain.wallet.book import WalletBook
from sidechain.wallet.records import PREFIX_FOREIGN, Change, Cursor

HASHES_KEPT_BLOCKS = 2_016
"""How far back a Bitcoin reorganisation is followed exactly; a deeper one starts over there."""


class PegStore:
    """All deposit addresses, peg-ins and peg-outs of the wallets in one book."""

    def __init__(self, book: WalletBook) -> None:
        """Load everything from the book's store."""
        self.book = book
        self._addresses: dict[bytes, DepositAddress] = {}
        self._pegins: dict[int, Pegin] = {}
        self._pegouts: dict[int, Pegout] = {}
        self._by_outpoint: dict[OutPoint, int] = {}
        self._hashes: dict[int, bytes] = {}
        self.parent_cursor: Cursor | None = None
        self._load()

    # ---- records ----

    @property
    def pegins(self) -> tuple[Pegin, ...]:
        """All peg-ins, oldest first."""
        return tuple(self._pegins.values())

    @property
    def pegouts(self) -> tuple[Pegout, ...]:
        """All peg-outs, oldest first."""
        return tuple(self._pegouts.values())

    @property
    def has_addresses(self) -> bool:
        """Whether there is anything to look for on Bitcoin."""
        return bool(self._addresses)

    def pegin(self, number: int) -> Pegin | None:
        """The peg-in of that number."""
        return self._pegins.get(number)

    def pegout(self, number: int) -> Pegout | None:
        """The peg-out of that number."""
        return self._pegouts.get(number)

    def pegin_of(self, outpoint: OutPoint) -> Pegin | None:
        """The peg-in of a Bitcoin output."""
        number = self._by_outpoint.get(outpoint)
        return None if number is None else self._pegins[number]

    def address_of(self, script: bytes) -> DepositAddress | None:
        """The deposit address with that output script."""
        return self._addresses.get(script)

    def addresses(self) -> tuple[DepositAddress, ...]:
        """All deposit addresses, in the order of their scripts after a restart."""
        return tuple(self._addresses.values())

    def find_open_pegin(self, receiver: Receiver, amount_sats: int) -> Pegin | None:
        """The newest own peg-in of that receiver and amount whose end was not reported yet."""
        for pegin in reversed(self.pegins):
            same = pegin.target.receiver == receiver and pegin.amount_sats == amount_sats
            if same and pegin.is_own and not pegin.is_reported:
                return pegin
        return None

    def find_open_pegout(self, wallet: str, address: str, amount_sats: int) -> Pegout | None:
        """The newest peg-out of that wallet, address and amount whose end was not reported."""
        for pegout in reversed(self.pegouts):
            same = (pegout.wallet, pegout.address) == (wallet, address)
            if same and pegout.amount_sats == amount_sats and not pegout.is_reported:
                return pegout
        return None

    def next_pegin_number(self) -> int:
        """Number for the next peg-in."""
        return 1 + max(self._pegins, default=0)

    def next_pegout_number(self) -> int:
        """Number for the next peg-out."""
        return 1 + max(self._pegouts, default=0)

    def add_address(self, address: DepositAddress) -> None:
        """Keep a deposit address before it is shown; durable."""
        key = _key(b"a", address.deposit_script)
        self.book.write([(key, encode_address(address))], sync=True)
        self._addresses[address.deposit_script] = address

    def put(self, *records: Pegin | Pegout) -> None:
        """Keep new states of records; durable when this returns."""
        self.book.write(self.changes(*records), sync=True)
        self.remember(*records)

    def changes(self, *records: Pegin | Pegout) -> list[Change]:
        """The writes of `put`, for a batch of the caller's; `remember` afterwards."""
        return [
            (_number_key(b"i", record.number), encode_pegin(record))
            if isinstance(record, Pegin)
            else (_number_key(b"o", record.number), encode_pegout(record))
            for record in records
        ]

    def remember(self, *records: Pegin | Pegout) -> None:
        """Take states that were written into the index."""
        for record in records:
            if isinstance(record, Pegout):
                self._pegouts[record.number] = record
                continue
            known = self._pegins.get(record.number)
            if known is not None and known.deposit is not None:
                self._by_outpoint.pop(known.deposit.outpoint, None)
            self._pegins[record.number] = record
            if record.deposit is not None:
                self._by_outpoint[record.deposit.outpoint] = record.number

    # ---- the final sidechain ----

    def settled_by(self, block: Block, height: int) -> list[Pegin | Pegout]:
        """New states of records that a final block brings to an end on the sidechain."""
        settled: list[Pegin | Pegout] = []
        burns = {pegout.burn.txid: pegout for pegout in self._pegouts.values()}
        for tx in block.transactions:
            for txin in tx.inputs:
                pegin = self.pegin_of(txin.prevout) if txin.is_pegin else None
                if pegin is not None:
                    settled.append(replace(pegin, claim_txid=tx.txid, final_height=height))
            pegout = burns.get(tx.txid)
            if pegout is not None:
                settled.append(replace(pegout, final_height=height, failure=""))
        return settled

    # ---- Bitcoin ----

    def parent_hash(self, height: int) -> bytes | None:
        """Hash of the followed Bitcoin block at a height, as far back as they are kept."""
        return self._hashes.get(height)

    def lowest_parent_height(self) -> int:
        """The lowest height of which the hash is kept."""
        return min(self._hashes, default=0)

    def connect_parent(self, block: ParentBlock, height: int) -> list[Pegin]:
        """Take in the next Bitcoin block; the peg-ins whose deposit it holds."""
        found: list[Pegin] = []
        for position, tx in enumerate(block.transactions):
            if any(script in self._addresses for _, script in tx.outputs):
                proof = build_merkle_block(block, tx.txid)
                place = Deposit(
                    outpoint=OutPoint(tx.txid, 0),
                    value_sats=0,
                    tx=tx.stripped,
                    is_coinbase=position == 0,
                    height=height,
                    block_hash=block.header.hash,
                    proof=proof,
                )
                found += self._found(tx, place, taken=len(found))
        self._move_parent(Cursor(height, block.header.hash), found)
        return found

    def see_unconfirmed(self, tx: ParentTx) -> list[Pegin]:
        """Take in a transaction of bitcoind's mempool; the peg-ins it is new to."""
        place = Deposit(outpoint=OutPoint(tx.txid, 0), value_sats=0, tx=tx.stripped)
        found = [
            pegin
            for pegin in self._found(tx, place, taken=0)
            if self._pegins.get(pegin.number) is None
        ]
        if found:
            self.put(*found)
        return found

    def rewind_parent(self, cursor: Cursor) -> list[Pegin]:
        """Go back to an earlier Bitcoin block; deposits above it are in no block any more."""
        undone = [
            replace(pegin, deposit=replace(deposit, height=None, block_hash=b"", proof=b""))
            for pegin in self._pegins.values()
            if (deposit := pegin.deposit) is not None
            and deposit.height is not None
            and deposit.height > cursor.height
        ]
        self._move_parent(cursor, undone)
        return undone

    def start_parent(self, cursor: Cursor) -> None:
        """Set where following Bitcoin begins."""
        self._move_parent(cursor, [])

    def _found(self, tx: ParentTx, place: Deposit, *, taken: int) -> list[Pegin]:
        found = []
        number = self.next_pegin_number() + taken
        for index, (value_sats, script) in enumerate(tx.outputs):
            target = self._addresses.get(script)
            if target is None:
                continue
            outpoint = OutPoint(tx.txid, index)
            deposit = replace(place, outpoint=outpoint, value_sats=value_sats)
            known = self.pegin_of(outpoint)
            if known is None:
                known = Pegin(number=number, target=target, amount_sats=value_sats, is_own=False)
                number += 1
            found.append(replace(known, deposit=deposit))
        return found

    def _move_parent(self, cursor: Cursor, records: Sequence[Pegin]) -> None:
        stale = [
            height
            for height in self._hashes
            if height > cursor.height or height < cursor.height - HASHES_KEPT_BLOCKS
        ]
        changes: list[Change] = [(_number_key(b"h", height), None) for height in stale]
        changes += self.changes(*records)
        changes.append((_number_key(b"h", cursor.height), cursor.block_hash))
        changes.append((_key(b"t"), cursor.encode()))
        self.book.write(changes)
        for height in stale:
            del self._hashes[height]
        self._hashes[cursor.height] = cursor.block_hash
        self.parent_cursor = cursor
        self.remember(*records)

    def _load(self) -> None:
        for _, value in self._stored(b"a"):
            address = decode_address(value)
            self._addresses[address.deposit_script] = address
        for _, value in self._stored(b"i"):
            self.remember(decode_pegin(value))
        for _, value in self._stored(b"o"):
            self.remember(decode_pegout(value))
        for key, value in self._stored(b"h"):
            self._hashes[int.from_bytes(key[-4:], "big")] = value
        for _, value in self._stored(b"t"):
            self.parent_cursor = Cursor.decode(value)

    def _stored(self, kind: bytes) -> Iterable[tuple[bytes, bytes]]:
        return self.book.records(kind)


def _key(kind: bytes, rest: bytes = b"") -> bytes:
    return PREFIX_FOREIGN + kind + rest


def _number_key(kind: bytes, number: int) -> bytes:
    return _key(kind, number.to_bytes(4, "big"))
