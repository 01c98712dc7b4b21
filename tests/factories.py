"""Small things tests are made of: transactions, keys, parent blocks, and a signed chain.

Everything is deterministic; nothing here is random or reads a clock.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidechain.chain import Chain
from sidechain.crypto.hashes import hash160, sha256, sha256d
from sidechain.crypto.keys import ecdsa_sign, public_key
from sidechain.params import BITCOIN_REGTEST_GENESIS_HASH, ChainParams
from sidechain.primitives.block import NULL_ENTRY, Block, ParamEntry
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.encoding import compact_size, le32, le64, vec
from sidechain.primitives.genesis import chain_params
from sidechain.primitives.parent import build_merkle_block, parse_parent_block
from sidechain.primitives.transaction import (
    InputWitness,
    OutPoint,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.block_signature import signblock_witness
from sidechain.script.script import multisig_script, p2pkh_of_hash, p2wpkh
from sidechain.script.sighash import segwit_v0_sighash
from sidechain.storage.chainstate import ChainState
from sidechain.validation.coins import Coin, PeginKey
from sidechain.validation.connect import BlockDelta
from sidechain.validation.dynafed import valid_fedpegscripts
from sidechain.validation.pegins import deposit_script

SIGHASH_ALL = 1
FIRST_BLOCK_TIME_S = 1_700_000_000
BLOCK_INTERVAL_S = 60
FEE_SATS = 1_000
REGTEST_BITS = 0x207FFFFF


def secret(name: str) -> bytes:
    """A private key that follows from a name."""
    return sha256(b"fedpeg test key " + name.encode())


@dataclass(frozen=True, slots=True)
class Wallet:
    """One P2WPKH key that can sign."""

    name: str

    @property
    def secret(self) -> bytes:
        """Private key."""
        return secret(self.name)

    @property
    def pubkey(self) -> bytes:
        """Compressed public key."""
        return public_key(self.secret)

    @property
    def script(self) -> bytes:
        """What pays this wallet."""
        return p2wpkh(self.pubkey)

    def sign(
        self, tx: Transaction, spent: Sequence[Coin], *, only: int | None = None
    ) -> Transaction:
        """Sign every input, or one, keeping peg-in witnesses."""
        witnesses = list(tx.input_witnesses)
        for index, coin in enumerate(spent):
            if only not in (None, index):
                continue
            digest = segwit_v0_sighash(
                tx,
                index,
                p2pkh_of_hash(hash160(self.pubkey)),
                coin.value,
                SIGHASH_ALL,
                rangeproof=True,
            )
            signature = ecdsa_sign(self.secret, digest) + bytes([SIGHASH_ALL])
            witnesses[index] = InputWitness(
                script=(signature, self.pubkey), pegin=witnesses[index].pegin
            )
        return Transaction.build(
            version=tx.version,
            inputs=tx.inputs,
            outputs=tx.outputs,
            locktime=tx.locktime,
            input_witnesses=witnesses,
            output_witnesses=tx.output_witnesses,
        )


ALICE = Wallet("alice")
BOB = Wallet("bob")


def federation_params(
    *, n: int = 4, k: int = 3, name: str = "fedtest", **fields: Any
) -> ChainParams:
    """Parameters of a k-of-n federation chain, as integration:N4 wants them."""
    block_keys = [public_key(secret(f"block {i}")) for i in range(n)]
    peg_keys = [public_key(secret(f"peg {i}")) for i in range(n)]
    script = multisig_script(k, block_keys)
    fields.setdefault("max_block_sig_size", 2 + 73 * k + len(vec(script)))
    fields.setdefault("start_p2wsh_script", True)
    fields.setdefault("mandatory_coinbase", b"\x6a")
    fields.setdefault("total_valid_epochs", 30)
    return chain_params(
        name=name,
        signblockscript=script,
        fedpegscript=multisig_script(k, peg_keys),
        **fields,
    )


def output(params: ChainParams, script: bytes, amount_sats: int) -> TxOut:
    """An explicit output in the pegged asset."""
    return TxOut(explicit_asset(params.pegged_asset), explicit_value(amount_sats), NULL, script)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposit:
    """A parent transaction paying the federation, in a mined parent block."""

    raw_tx: bytes
    txid: bytes
    vout: int
    amount_sats: int
    claim_script: bytes
    proof: bytes
    block_hash: bytes
    tx_count: int


class StaticFacts:
    """Parent facts of deposits that are deep enough, or as deep as told."""

    def __init__(self, deposits: Sequence[Deposit] = (), confirmations: int = 1_000) -> None:
        self.blocks = {d.block_hash: (confirmations, d.tx_count) for d in deposits}

    def block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
        """Confirmations and transaction count, None when unknown."""
        return self.blocks.get(block_hash)


@dataclass(slots=True)
class SignedChain:
    """A chain with its federation's keys: makes deposits, payments and signed blocks."""

    chain: Chain
    n: int = 4
    k: int = 3
    serial: "itertools.count[int]" = field(default_factory=itertools.count)

    @classmethod
    def open(cls, path: Path, *, n: int = 4, k: int = 3, **fields: Any) -> "SignedChain":
        """A chain in `path`; a new one holds its genesis block."""
        return cls(Chain.open(path, federation_params(n=n, k=k, **fields)), n=n, k=k)

    @property
    def params(self) -> ChainParams:
        """Parameters of the chain."""
        return self.chain.params

    def next_time_s(self) -> int:
        """Time of the next block."""
        return FIRST_BLOCK_TIME_S + BLOCK_INTERVAL_S * (self.chain.tip_height + 1)

    def deposit(self, claim_script: bytes, amount_sats: int) -> Deposit:
        """Pay the federation on a parent chain that exists only here; regtest work is real."""
        pair = valid_fedpegscripts(self.chain, self.chain.tip_height, self.params, True)[0]
        script = deposit_script(pair.program, pair.script, claim_script)
        return make_deposit(script, claim_script, amount_sats, next(self.serial))

    def claim(self, deposit: Deposit, owner: Wallet, fee_sats: int = FEE_SATS) -> Transaction:
        """Claim a deposit whose claim script is the owner's, to the owner."""
        tx = self.unsigned_claim(deposit, owner.script, fee_sats)
        coin = Coin(
            asset=explicit_asset(self.params.pegged_asset),
            value=explicit_value(deposit.amount_sats),
            script=deposit.claim_script,
            height=0,
            coinbase=False,
        )
        return owner.sign(tx, [coin])

    def unsigned_claim(self, deposit: Deposit, script: bytes, fee_sats: int) -> Transaction:
        """The claim without script witness."""
        witness = InputWitness(
            pegin=(
                le64(deposit.amount_sats),
                self.params.pegged_asset,
                self.params.parent_genesis_hash,
                deposit.claim_script,
                deposit.raw_tx,
                deposit.proof,
            )
        )
        return Transaction.build(
            inputs=[TxIn(OutPoint(deposit.txid, deposit.vout), sequence=0xFFFFFFFD, is_pegin=True)],
            outputs=[
                output(self.params, script, deposit.amount_sats - fee_sats),
                output(self.params, b"", fee_sats),
            ],
            input_witnesses=[witness],
        )

    def payment(
        self,
        owner: Wallet,
        sources: Sequence[OutPoint],
        targets: Sequence[tuple[bytes, int]],
        *,
        fee_sats: int = FEE_SATS,
        **fields: Any,
    ) -> Transaction:
        """Spend coins of one owner; what is left over goes back."""
        found = [self.chain.mempool.coin(p) or self.chain.coin(p) for p in sources]
        coins = [coin for coin in found if coin is not None]
        total = sum(coin.output.value_sats or 0 for coin in coins)
        outputs = [output(self.params, script, amount) for script, amount in targets]
        change = total - fee_sats - sum(amount for _, amount in targets)
        if change > 0:
            outputs.append(output(self.params, owner.script, change))
        if fee_sats:
            outputs.append(output(self.params, b"", fee_sats))
        sequence = fields.pop("sequence", 0xFFFFFFFD)
        tx = Transaction.build(
            inputs=[TxIn(point, sequence=sequence) for point in sources], outputs=outputs, **fields
        )
        return owner.sign(tx, coins)

    def template(
        self,
        transactions: Sequence[Transaction] = (),
        *,
        proposed: ParamEntry = NULL_ENTRY,
        coinbase_scripts: Sequence[bytes] = (),
    ) -> Block:
        """The next block, unsigned."""
        return self.chain.build_template(
            time_s=self.next_time_s(),
            coinbase_scripts=coinbase_scripts,
            transactions=transactions,
            proposed=proposed,
        )

    def sign(self, block: Block, signers: Sequence[int] | None = None) -> Block:
        """Sign a block with the first k members, or those given."""
        keys = [public_key(secret(f"block {i}")) for i in range(self.n)]
        chosen = range(self.k) if signers is None else signers
        signatures = {keys[i]: ecdsa_sign(secret(f"block {i}"), block.hash) for i in chosen}
        return block.with_signblock_witness(signblock_witness(self.k, keys, signatures))

    def extend(self, transactions: Sequence[Transaction] = (), **fields: Any) -> BlockDelta:
        """Build, sign and connect the next block."""
        return self.chain.connect(self.sign(self.template(transactions, **fields)))

    def mint(self, owner: Wallet, amount_sats: int) -> OutPoint:
        """Connect a block that gives the owner that amount by a peg-in; its coin."""
        deposit = self.deposit(owner.script, amount_sats + FEE_SATS)
        tx = self.claim(deposit, owner)
        self.extend([tx])
        return OutPoint(tx.txid, 0)


def make_deposit(script: bytes, claim_script: bytes, amount_sats: int, serial: int) -> Deposit:
    """A parent transaction paying `script`, the second one of a block with regtest work."""
    coinbase = _parent_tx(bytes(32), 0xFFFFFFFF, b"\x51\x00", [(50 * 10**8, b"\x51")])
    funding = sha256(b"fedpeg test deposit" + le32(serial))
    raw_tx = _parent_tx(funding, 0, b"", [(1_234, b"\x51"), (amount_sats, script)])
    txids = [sha256d(coinbase), sha256d(raw_tx)]
    header = _mine(sha256d(txids[0] + txids[1]), serial)
    block = header + compact_size(2) + coinbase + raw_tx
    proof = build_merkle_block(parse_parent_block(block), txids[1])
    return Deposit(
        raw_tx=raw_tx,
        txid=txids[1],
        vout=1,
        amount_sats=amount_sats,
        claim_script=claim_script,
        proof=proof,
        block_hash=sha256d(header),
        tx_count=2,
    )


def _parent_tx(
    txid: bytes, index: int, script_sig: bytes, outputs: Sequence[tuple[int, bytes]]
) -> bytes:
    head = le32(2) + b"\1" + txid + le32(index) + vec(script_sig) + le32(0xFFFFFFFF)
    paid = b"".join(le64(amount) + vec(script) for amount, script in outputs)
    return head + compact_size(len(outputs)) + paid + le32(0)


def _mine(merkle_root: bytes, serial: int) -> bytes:
    start = le32(0x20000000) + BITCOIN_REGTEST_GENESIS_HASH + merkle_root
    start += le32(FIRST_BLOCK_TIME_S + serial) + le32(REGTEST_BITS)
    for nonce in itertools.count():
        header = start + le32(nonce)
        if int.from_bytes(sha256d(header), "little") < 1 << 255:
            return header
    raise AssertionError("a counter does not end")


def unjudged_delta(block: Block, state: ChainState, params: ChainParams) -> BlockDelta:
    """What a valid block changes, found without any check."""
    height = state.tip_height + 1
    spent: dict[OutPoint, Coin] = {}
    created: dict[OutPoint, Coin] = {}
    pegins: list[PeginKey] = []
    for tx in block.transactions:
        for txin in () if tx.is_coinbase else tx.inputs:
            if txin.is_pegin:
                pegins.append(PeginKey(params.parent_genesis_hash, txin.prevout))
            elif created.pop(txin.prevout, None) is None:
                coin = state.coin(txin.prevout)
                if coin is None:
                    raise AssertionError("the block spends a coin that is not there")
                spent[txin.prevout] = coin
        for index, made in enumerate(tx.outputs):
            if not made.is_unspendable:
                point = OutPoint(tx.txid, index)
                created[point] = Coin.of(made, height=height, coinbase=tx.is_coinbase)
    return BlockDelta(
        height=height,
        hash=block.hash,
        prev_hash=block.header.prev_hash,
        spent=tuple(spent.items()),
        created=tuple(created.items()),
        pegins=tuple(pegins),
        fees=(),
    )
