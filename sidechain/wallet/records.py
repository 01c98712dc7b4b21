"""What the wallet store keeps, as bytes. Integers in keys are big-endian so that they sort.

    V                          schema version
    G                          genesis hash of the chain
    T                          cursor: LE32 height, block hash
    w wallet                   name, stored seed, account key, blinding key, key origin, rescan
    i wallet branch            LE32 number of scripts handed out
    c wallet outpoint          coin, with its blinders
    u wallet outpoint          output to an own script that does not open
    h wallet height position   history entry
    s wallet txid vin          issuance (`issuing.IssuanceRecord`)
    p txid                     own transaction that is in no final block
    x …                        left to the process that owns the store (peg operations)

What schema 1 wrote lacks the last fields of wallets, coins and history; it is read as such.
`wallet` is a BE32 number. A transaction touches a wallet once per block position, so height and
position name a history entry.
"""

from dataclasses import dataclass, replace

from sidechain.errors import InvalidEncoding
from sidechain.primitives.confidential import NULL
from sidechain.primitives.encoding import Reader, le32, le64, vec
from sidechain.primitives.transaction import OutPoint
from sidechain.wallet.blinding import ZERO
from sidechain.wallet.keys import Branch, KeyOrigin, PublicAccount, SecretKey
from sidechain.wallet.selection import OwnedCoin

SCHEMA_VERSION = 2
READABLE_SCHEMAS = (1, 2)
KEY_SCHEMA = b"V"
KEY_GENESIS = b"G"
KEY_CURSOR = b"T"
PREFIX_WALLET = b"w"
PREFIX_PENDING = b"p"
PREFIX_FOREIGN = b"x"
NO_HEIGHT = 2**32 - 1

Change = tuple[bytes, bytes | None]
"""One write: key and new value, or None to delete the key."""

KINDS = ("receive", "send", "self", "pegin", "pegout", "issue", "reissue", "burn")


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last final block folded into the store."""

    height: int
    block_hash: bytes

    def encode(self) -> bytes:
        """As stored."""
        return le32(self.height) + self.block_hash

    @classmethod
    def decode(cls, data: bytes) -> "Cursor":
        """Read what `encode` wrote. Raises InvalidEncoding."""
        reader = Reader(data)
        cursor = cls(reader.u32(), reader.read(32))
        reader.done()
        return cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletRecord:
    """Name, seed in its stored form (`sealing`), and what can be known without the seed.

    `stored_seed` is empty for a wallet that only watches. `blinding_key` and `origin` are empty
    where they are not known: in a record of schema 1 with a sealed seed until it is opened.
    `rescan_height` is the next block to look through again; None when there is none.
    """

    name: str
    stored_seed: bytes
    extended_key: bytes
    blinding_key: bytes = b""
    origin: bytes = b""
    rescan_height: int | None = None

    def encode(self) -> bytes:
        """As stored."""
        head = vec(self.name.encode()) + vec(self.stored_seed) + vec(self.extended_key)
        rescan = NO_HEIGHT if self.rescan_height is None else self.rescan_height
        return head + vec(self.blinding_key) + vec(self.origin) + le32(rescan)

    @classmethod
    def decode(cls, data: bytes) -> "WalletRecord":
        """Read what `encode` wrote. Raises InvalidEncoding."""
        reader = Reader(data)
        name, seed, key = reader.vec(), reader.vec(), reader.vec()
        blinding_key, origin, rescan = b"", b"", NO_HEIGHT
        if reader.remaining:
            blinding_key, origin, rescan = reader.vec(), reader.vec(), reader.u32()
        reader.done()
        try:
            text = name.decode()
        except UnicodeDecodeError as error:
            raise InvalidEncoding("wallet name is not text") from error
        return cls(
            name=text,
            stored_seed=seed,
            extended_key=key,
            blinding_key=blinding_key,
            origin=origin,
            rescan_height=None if rescan == NO_HEIGHT else rescan,
        )

    def account(self) -> PublicAccount:
        """The account it keeps. Raises InvalidEncoding."""
        return PublicAccount.decode(
            self.extended_key,
            master_blinding_key=SecretKey(self.blinding_key) if self.blinding_key else None,
            origin=KeyOrigin.decode(self.origin) if self.origin else None,
        )

    def with_account(self, account: PublicAccount) -> "WalletRecord":
        """The same wallet with everything a full account knows."""
        key, origin = account.master_blinding_key, account.origin
        return replace(
            self,
            blinding_key=key.value if key is not None else b"",
            origin=origin.encode() if origin is not None else b"",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingTx:
    """An own signed transaction that may have left this machine and is in no final block.

    `sequence` orders them: a later one may spend what an earlier one makes.
    """

    raw: bytes
    sequence: int
    unix_time_s: int

    def encode(self) -> bytes:
        """As stored."""
        return le64(self.sequence) + le64(self.unix_time_s) + vec(self.raw)

    @classmethod
    def decode(cls, data: bytes) -> "PendingTx":
        """Read what `encode` wrote. Raises InvalidEncoding."""
        reader = Reader(data)
        sequence, unix_time_s, raw = reader.u64(), reader.u64(), reader.vec()
        reader.done()
        return cls(raw=raw, sequence=sequence, unix_time_s=unix_time_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """What one transaction did to one wallet.

    `deltas` are the changes per asset in sats, gains positive. `fee_sats` is what the wallet paid
    for it, 0 when others did. `height` is None outside final blocks. `unknown` counts outputs to
    own scripts that do not open: they are in no delta.
    """

    txid: bytes
    height: int | None
    unix_time_s: int
    kind: str
    fee_sats: int
    deltas: tuple[tuple[bytes, int], ...]
    unknown: int = 0

    def encode(self) -> bytes:
        """As stored, without the height, which is in the key."""
        head = self.txid + le64(self.unix_time_s) + bytes([KINDS.index(self.kind)])
        body = b"".join(
            asset + sats.to_bytes(8, "little", signed=True) for asset, sats in self.deltas
        )
        tail = le32(self.unknown) if self.unknown else b""
        return head + le64(self.fee_sats) + bytes([len(self.deltas)]) + body + tail

    @classmethod
    def decode(cls, data: bytes, height: int) -> "HistoryEntry":
        """Read what `encode` wrote. Raises InvalidEncoding."""
        reader = Reader(data)
        txid, unix_time_s, kind = reader.read(32), reader.u64(), reader.u8()
        fee = reader.u64()
        deltas = tuple((reader.read(32), reader.i64()) for _ in range(reader.u8()))
        unknown = reader.u32() if reader.remaining else 0
        reader.done()
        if kind >= len(KINDS):
            raise InvalidEncoding("unknown kind of history entry")
        return cls(
            txid=txid,
            height=height,
            unix_time_s=unix_time_s,
            kind=KINDS[kind],
            fee_sats=fee,
            deltas=deltas,
            unknown=unknown,
        )


def encode_coin(coin: OwnedCoin) -> bytes:
    """A coin of a final block as stored; its outpoint is in the key."""
    height = coin.height or 0
    place = bytes([coin.branch]) + le32(coin.index) + le32(height)
    tail = vec(coin.nonce) + coin.abf + coin.vbf if coin.is_blinded else b""
    return coin.asset + le64(coin.value_sats) + place + vec(coin.script) + tail


def decode_coin(data: bytes, outpoint: OutPoint) -> OwnedCoin:
    """Read what `encode_coin` wrote. Raises InvalidEncoding."""
    reader = Reader(data)
    asset, value = reader.read(32), reader.u64()
    branch, index, height = reader.u8(), reader.u32(), reader.u32()
    script = reader.vec()
    nonce, abf, vbf = NULL, ZERO, ZERO
    if reader.remaining:
        nonce, abf, vbf = reader.vec(), reader.read(32), reader.read(32)
    reader.done()
    if branch not in set(Branch):
        raise InvalidEncoding("unknown key branch")
    return OwnedCoin(
        outpoint=outpoint,
        asset=asset,
        value_sats=value,
        script=script,
        branch=Branch(branch),
        index=index,
        height=height,
        nonce=nonce,
        abf=abf,
        vbf=vbf,
    )


def wallet_key(number: int) -> bytes:
    """Key of a wallet's record."""
    return PREFIX_WALLET + number.to_bytes(4, "big")


def issued_key(number: int, branch: Branch) -> bytes:
    """Key of the count of scripts handed out on a branch."""
    return b"i" + number.to_bytes(4, "big") + bytes([branch])


def coins_prefix(number: int) -> bytes:
    """Prefix of a wallet's coins; the 36 bytes of the outpoint follow."""
    return b"c" + number.to_bytes(4, "big")


def unknown_prefix(number: int) -> bytes:
    """Prefix of outputs to own scripts that do not open; the outpoint follows."""
    return b"u" + number.to_bytes(4, "big")


def issuances_prefix(number: int) -> bytes:
    """Prefix of what a wallet issued in final blocks; txid and LE32 input follow."""
    return b"s" + number.to_bytes(4, "big")


def issuance_key(number: int, txid: bytes, vin: int) -> bytes:
    """Key of one issuance."""
    return issuances_prefix(number) + txid + le32(vin)


def history_prefix(number: int) -> bytes:
    """Prefix of a wallet's history; BE32 height and BE32 position follow."""
    return b"h" + number.to_bytes(4, "big")


def history_key(number: int, height: int, position: int) -> bytes:
    """Key of one history entry."""
    return history_prefix(number) + height.to_bytes(4, "big") + position.to_bytes(4, "big")


def pending_key(txid: bytes) -> bytes:
    """Key of a pending transaction."""
    return PREFIX_PENDING + txid
