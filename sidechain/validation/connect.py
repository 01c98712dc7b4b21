"""Connecting a block: all its transactions in order against the coins below it.

The result is a `BlockDelta`, which says everything that changes; nothing is changed here.

Source: elements/blocks.md 5.2, elements/peg.md 3.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sidechain.errors import InvalidBlock, InvalidTransaction, Stalled
from sidechain.params import MAX_MONEY_SATS, ChainParams
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.block_signature import verify_block_signature
from sidechain.script.flags import Flags
from sidechain.validation.block_check import (
    MAX_BLOCK_SIGOP_COST,
    check_block,
    check_contextual_header,
    contextual_check_block,
)
from sidechain.validation.checks import (
    BlockChecks,
    ScriptsCheck,
    SequentialVerifier,
    Verifier,
    at_position,
)
from sidechain.validation.coins import Coin, CoinView, PeginKey
from sidechain.validation.deployments import dynafed_active
from sidechain.validation.dynafed import full_current, pak_list, valid_fedpegscripts
from sidechain.validation.headers import ExtendedChain, HeaderChain
from sidechain.validation.pegins import FedpegPair, ParentFacts, PeginClaim, check_pegin
from sidechain.validation.pegouts import check_pegout_authorisation
from sidechain.validation.tx_verify import (
    check_inputs,
    check_sequence_locks,
    resolve_inputs,
    sigop_cost,
)

MAX_HALVINGS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class HowToVerify:
    """How the scripts and proofs of a block are verified; every way has the same verdict.

    Attributes:
        verifier: runs them.
        direct: whether plain spends may take the short cut that leaves out the interpreter.
    """

    verifier: Verifier = SequentialVerifier()
    direct: bool = True


IN_TURN = HowToVerify()
"""Here, one after the other, from nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDelta:
    """What a block changes, net: an output made and spent inside it appears nowhere.

    Attributes:
        spent: coins of the chain below that the block takes away, in order of spending.
        created: coins it leaves, in block order.
        pegins: deposits it claims.
        fees: satoshis per 32-byte asset id, in the order the assets first appear.
    """

    height: int
    hash: bytes
    prev_hash: bytes
    spent: tuple[tuple[OutPoint, Coin], ...]
    created: tuple[tuple[OutPoint, Coin], ...]
    pegins: tuple[PeginKey, ...]
    fees: tuple[tuple[bytes, int], ...]


def validate_block(
    block: Block,
    view: CoinView,
    chain: HeaderChain,
    params: ChainParams,
    *,
    now_s: int,
    facts: ParentFacts | None,
    check_signature: bool = True,
    check_scripts: bool = True,
    how: HowToVerify = IN_TURN,
) -> BlockDelta:
    """Apply every rule to a block that is to extend `chain`, in Elements' order.

    Args:
        view: coins and claims as of the tip of `chain`.
        now_s: this node's clock, seconds since 1970.
        facts: the parent chain now; None leaves out the depth of peg-ins.
        check_signature: False for a proposal, which is not signed yet.
        how: who verifies scripts and proofs.
    Raises:
        InvalidBlock: with Elements' reject code.
        Stalled: only the depth of a peg-in is missing.
    """
    if check_signature:
        verify_block_signature(block.header, params)
    check_block(block, params)
    check_contextual_header(block.header, chain, params, now_s)
    contextual_check_block(block, chain, params)
    return connect_block(
        block, view, chain, params, facts=facts, check_scripts=check_scripts, how=how
    )


def validate_proposal(
    block: Block,
    view: CoinView,
    chain: HeaderChain,
    params: ChainParams,
    *,
    now_s: int,
    facts: ParentFacts | None,
    how: HowToVerify = IN_TURN,
) -> BlockDelta:
    """Apply every rule but the signature to a proposal, in the order elementsd has for proposals.

    The header's context comes first, and a peg-in that is not deep enough makes it invalid.

    Raises:
        InvalidBlock: with Elements' reject code.
    """
    check_contextual_header(block.header, chain, params, now_s)
    check_block(block, params)
    contextual_check_block(block, chain, params)
    return connect_block(block, view, chain, params, facts=facts, stall=False, how=how)


def connect_block(
    block: Block,
    view: CoinView,
    chain: HeaderChain,
    params: ChainParams,
    *,
    facts: ParentFacts | None,
    check_scripts: bool = True,
    stall: bool = True,
    how: HowToVerify = IN_TURN,
) -> BlockDelta:
    """Connect a block whose header and body passed `block_check`.

    Args:
        view: coins and claims as of the tip of `chain`.
        chain: the headers below the block.
        facts: the parent chain now; None leaves out the depth of peg-ins.
        check_scripts: False skips scripts (never amounts).
        stall: False calls a block with a peg-in that is too shallow invalid, as a proposal is.
        how: who verifies scripts and proofs. Whatever that is, the block is refused for what
            comes first when everything is checked in its turn.
    Raises:
        InvalidBlock: with Elements' reject code; the detail names the transaction.
        Stalled: a peg-in is too shallow, and none before it is wrong in another way.
    """
    connection = _Connection(block, view, chain, params, how, check_scripts=check_scripts)
    connection.judge_pegins(facts, stall=stall)
    _check_mandatory_coinbase(block.transactions[0], params)
    _check_pegouts(block, chain, params)
    # Where every coinbase names its height, no id can come a second time but with a transaction
    # that spends what is spent already. So only a block with another fault needs the long look.
    unique = params.bip34_height <= 1
    _check_overwrites(block.transactions[:1] if unique else block.transactions, view)
    try:
        connection.add_transactions()
        connection.check_coinbase()
    except InvalidBlock:
        _check_overwrites(block.transactions, view)
        raise
    finally:
        connection.checks.cancel()
    return connection.delta()


def genesis_delta(block: Block, params: ChainParams) -> BlockDelta:
    """The coins a genesis block starts with; it is never validated.

    Source: elements/blocks.md 5.2.
    """
    created = []
    for tx in block.transactions if params.connect_genesis_outputs else ():
        created += _created_coins(tx, height=0)
    return BlockDelta(
        height=0,
        hash=block.hash,
        prev_hash=block.header.prev_hash,
        spent=(),
        created=tuple(created),
        pegins=(),
        fees=(),
    )


def block_script_flags(chain: HeaderChain, height: int, params: ChainParams) -> Flags:
    """Script rules of a block at `height`.

    Args:
        chain: must hold the headers below it.
    Source: elements/script.md 1.1.
    """
    flags = Flags.P2SH | Flags.WITNESS | Flags.TAPROOT
    buried = (
        (params.bip66_height, Flags.DERSIG),
        (params.bip65_height, Flags.CHECKLOCKTIMEVERIFY),
        (params.csv_height, Flags.CHECKSEQUENCEVERIFY),
        (params.segwit_height, Flags.NULLDUMMY),
    )
    for since, flag in buried:
        if height >= since:
            flags |= flag
    if dynafed_active(chain, height - 1, params):
        flags |= Flags.SIGHASH_RANGEPROOF
    return flags


def block_subsidy_sats(height: int, params: ChainParams) -> int:
    """New satoshis of the subsidy asset a coinbase may create."""
    halvings = height // params.subsidy_halving_blocks
    return 0 if halvings >= MAX_HALVINGS else params.block_subsidy_sats >> halvings


@dataclass(slots=True)
class _Connection:
    """Owner of the state while one block is connected."""

    block: Block
    view: CoinView
    chain: HeaderChain
    params: ChainParams
    how: HowToVerify
    check_scripts: bool = field(kw_only=True)
    checks: BlockChecks = field(init=False)
    created: dict[OutPoint, Coin] = field(default_factory=dict)
    spent: dict[OutPoint, Coin] = field(default_factory=dict)
    pegins: dict[PeginKey, None] = field(default_factory=dict)
    fees: dict[bytes, int] = field(default_factory=dict)
    sigops: int = 0
    claims: dict[tuple[bytes, int], PeginClaim | InvalidTransaction] = field(default_factory=dict)
    height: int = field(init=False)
    flags: Flags = field(init=False)

    def __post_init__(self) -> None:
        self.checks = BlockChecks(self.how.verifier)
        self.height = self.chain.tip_height + 1
        self.flags = block_script_flags(self.chain, self.height, self.params)

    def coin(self, outpoint: OutPoint) -> Coin | None:
        """The coin as of this point in the block: this object is its own view."""
        if outpoint in self.spent:
            return None
        return self.created.get(outpoint) or self.view.coin(outpoint)

    def pegin_claimed(self, key: PeginKey) -> bool:
        return key in self.pegins or self.view.pegin_claimed(key)

    def judge_pegins(self, facts: ParentFacts | None, *, stall: bool) -> None:
        """Check the peg-ins in order up to the first wrong one, which is reported in its turn.

        Depth comes before everything else in the block, so that a block is stalled rather than
        called invalid while one of its claims is too shallow. Nothing behind the first wrong
        claim is looked at, neither here nor later. Both looks at the parent that elementsd takes
        are one here, so a parent that changes between them cannot make a block invalid.

        Source: elements/peg.md 3.2 and 7.
        """
        pairs = self._fedpegscripts()
        for tx in self.block.transactions:
            for index, item in enumerate(tx.inputs):
                if not item.is_pegin:
                    continue
                items = tx.input_witnesses[index].pegin
                try:
                    claim = check_pegin(items, item.prevout, self.params, pairs, facts)
                    self.claims[tx.wtxid, index] = claim
                except InvalidTransaction as fault:
                    self.claims[tx.wtxid, index] = fault
                    return
                except Stalled as error:
                    if stall:
                        raise
                    unripe = InvalidTransaction("bad-pegin-witness", error.reason)
                    self.claims[tx.wtxid, index] = unripe
                    return

    def _fedpegscripts(self) -> Sequence[FedpegPair]:
        if not any(item.is_pegin for tx in self.block.transactions for item in tx.inputs):
            return ()
        extended = ExtendedChain(self.chain, self.block.header)
        return valid_fedpegscripts(extended, self.height, self.params, next_block=False)

    def judged(self, tx: Transaction, index: int) -> PeginClaim:
        found = self.claims[tx.wtxid, index]
        if isinstance(found, InvalidTransaction):
            raise found
        return found

    def add_transactions(self) -> None:
        """Check all transactions in order, and wait for their scripts and proofs.

        Raises:
            InvalidBlock: for the first fault in the order of checks; scripts and proofs still
                under way come before what is found wrong meanwhile.
        """
        for position, tx in enumerate(self.block.transactions):
            try:
                self._add_transaction(position, tx)
            except InvalidTransaction as fault:
                self.checks.settle()
                raise at_position(fault, position) from fault
        self.checks.settle()

    def _add_transaction(self, position: int, tx: Transaction) -> None:
        coins: tuple[Coin, ...] = ()
        if position > 0:
            coins, keys = resolve_inputs(tx, self, self.judged, height=self.height)
            fees = check_inputs(
                tx,
                coins,
                height=self.height,
                params=self.params,
                take_proofs=lambda proofs: self.checks.add(position, proofs),
            )
            self._add_fees(fees)
            if self.height >= self.params.csv_height:
                check_sequence_locks(tx, coins, self.chain, height=self.height)
            self.pegins.update(dict.fromkeys(keys))
        self.sigops += sigop_cost(tx, coins)
        if self.sigops > MAX_BLOCK_SIGOP_COST:
            raise InvalidTransaction("bad-blk-sigops")
        if position > 0 and self.check_scripts:
            self.checks.add(position, (self._scripts_check(tx, coins),))
        self._update_coins(tx, coins)

    def _scripts_check(self, tx: Transaction, coins: tuple[Coin, ...]) -> ScriptsCheck:
        return ScriptsCheck(tx, coins, self.flags, self.params.genesis_hash, self.how.direct)

    def _add_fees(self, fees: Mapping[bytes, int]) -> None:
        for asset, amount_sats in fees.items():
            self.fees[asset] = self.fees.get(asset, 0) + amount_sats
            if self.fees[asset] > MAX_MONEY_SATS:
                raise InvalidTransaction("bad-block-total-fee-outofrange")

    def _update_coins(self, tx: Transaction, coins: Sequence[Coin]) -> None:
        for item, coin in zip(tx.inputs, coins, strict=False):
            if item.is_pegin:
                continue
            if self.created.pop(item.prevout, None) is None:
                self.spent[item.prevout] = coin
        self.created.update(_created_coins(tx, height=self.height))

    def check_coinbase(self) -> None:
        """Check what the coinbase takes against the fees, asset by asset."""
        params = self.params
        reward = dict(self.fees)
        subsidy_sats = block_subsidy_sats(self.height, params)
        reward[params.subsidy_asset] = reward.get(params.subsidy_asset, 0) + subsidy_sats
        if not all(0 <= amount_sats <= MAX_MONEY_SATS for amount_sats in reward.values()):
            raise InvalidBlock("bad-blockreward-outofrange")
        coinbase = self.block.transactions[0]
        _check_coinbase_amounts(coinbase, reward)

    def delta(self) -> BlockDelta:
        return BlockDelta(
            height=self.height,
            hash=self.block.hash,
            prev_hash=self.block.header.prev_hash,
            spent=tuple(self.spent.items()),
            created=tuple(self.created.items()),
            pegins=tuple(self.pegins),
            fees=tuple(self.fees.items()),
        )


def _created_coins(tx: Transaction, *, height: int) -> list[tuple[OutPoint, Coin]]:
    coinbase = tx.is_coinbase
    txid = tx.txid
    return [
        (
            OutPoint(txid, index),
            Coin(
                asset=output.asset,
                value=output.value,
                script=output.script,
                height=height,
                coinbase=coinbase,
            ),
        )
        for index, output in enumerate(tx.outputs)
        if output.script and not output.is_unspendable
    ]


def _check_overwrites(transactions: Sequence[Transaction], view: CoinView) -> None:
    """No transaction may repeat the id of one that still has coins (BIP30)."""
    for tx in transactions:
        for index in range(len(tx.outputs)):
            if view.coin(OutPoint(tx.txid, index)) is not None:
                raise InvalidBlock("bad-txns-BIP30")


def _check_pegouts(block: Block, chain: HeaderChain, params: ChainParams) -> None:
    """Check the authorisation of every peg-out under the list in force for this block.

    Source: elements/peg.md 5.2.
    """
    if not params.enforce_pak or not block.header.is_dynafed:
        return
    keys = pak_list(full_current(chain, chain.tip_height, params))
    for position, tx in enumerate(block.transactions):
        for output in tx.outputs:
            try:
                check_pegout_authorisation(output, keys, params)
            except InvalidTransaction as fault:
                detail = f"{fault.detail}, transaction {position}"
                raise InvalidBlock("bad-pak-tx", detail) from fault


def _check_coinbase_amounts(coinbase: Transaction, reward: Mapping[bytes, int]) -> None:
    if not all(witness.is_empty for witness in coinbase.output_witnesses):
        raise InvalidBlock("bad-cb-amount", "output with proofs")
    left = dict(reward)
    for output in coinbase.outputs:
        asset, amount_sats = output.asset_id, output.value_sats
        if asset is None or amount_sats is None or not 0 <= amount_sats <= MAX_MONEY_SATS:
            raise InvalidBlock("bad-cb-amount", "output amount is hidden or out of range")
        if amount_sats == 0 and not output.is_unspendable:
            raise InvalidBlock("bad-cb-amount", "spendable output of zero")
        left[asset] = left.get(asset, 0) - amount_sats
    if not all(0 <= amount_sats <= MAX_MONEY_SATS for amount_sats in left.values()):
        raise InvalidBlock("bad-cb-amount", "takes more than the fees")


def _check_mandatory_coinbase(coinbase: Transaction, params: ChainParams) -> None:
    required = params.mandatory_coinbase
    for output in coinbase.outputs if required else ():
        wrong_place = output.value_sats != 0 and output.asset_id == params.policy_asset
        if wrong_place and output.script != required:
            raise InvalidBlock("bad-coinbase-txos")
