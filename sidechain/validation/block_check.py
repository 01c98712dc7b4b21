"""Rules of headers and of block bodies that need no coins.

Elements applies them in this order: `verify_block_signature` and `check_block` first, then
`check_contextual_header`, then `contextual_check_block`; `connect.validate_block` keeps it.

Source: elements/blocks.md 3 to 5.
"""

from sidechain.crypto.hashes import sha256d
from sidechain.errors import InvalidBlock, InvalidTransaction
from sidechain.params import MAX_BLOCK_WEIGHT_WU, ChainParams
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.transaction import InputWitness, Transaction
from sidechain.script.block_signature import verify_block_signature
from sidechain.script.script import push_number
from sidechain.validation.deployments import dynafed_active
from sidechain.validation.dynafed import check_dynafed_header
from sidechain.validation.headers import HeaderChain, median_time_past
from sidechain.validation.tx_check import WITNESS_SCALE, check_transaction
from sidechain.validation.tx_verify import is_final, legacy_sigops

MAX_FUTURE_S = 7200
MAX_BLOCK_SIGOP_COST = 80_000
WITNESS_COMMITMENT_PREFIX = bytes.fromhex("6a24aa21a9ed")

_COMMITMENT_SCRIPT_BYTES = 38


def check_header(
    header: BlockHeader,
    chain: HeaderChain,
    params: ChainParams,
    now_s: int,
    *,
    check_signature: bool,
) -> None:
    """Check a header that is to extend `chain`: its signature, then its context.

    Args:
        now_s: this node's clock, seconds since 1970.
        check_signature: False for a proposal, which is not signed yet.
    Raises:
        InvalidBlock: with Elements' reject code.
    """
    if check_signature:
        verify_block_signature(header, params)
    check_contextual_header(header, chain, params, now_s)


def check_contextual_header(
    header: BlockHeader, chain: HeaderChain, params: ChainParams, now_s: int
) -> None:
    """Check a header against the chain it is to extend and the clock.

    Raises:
        InvalidBlock: "prev-blk-not-found", "bad-diffbits", "time-too-old", "bad-header-height",
            "time-too-new", "bad-version(0x…)" or "invalid-dyna-fed". Only "time-too-new" can pass
            later.
    Source: elements/blocks.md 4.
    """
    tip = chain.tip_height
    parent = chain.header(tip)
    if header.prev_hash != parent.hash:
        raise InvalidBlock("prev-blk-not-found")
    if header.challenge != parent.challenge and not dynafed_active(chain, tip, params):
        raise InvalidBlock("bad-diffbits")
    if header.time <= median_time_past(chain, tip):
        raise InvalidBlock("time-too-old")
    if params.block_height_in_header and header.height != tip + 1:
        raise InvalidBlock("bad-header-height")
    if header.time > now_s + MAX_FUTURE_S:
        raise InvalidBlock("time-too-new")
    if header.version < _least_version(tip + 1, params):
        raise InvalidBlock(f"bad-version(0x{header.version:08x})")
    check_dynafed_header(header, chain, params)


def _least_version(height: int, params: ChainParams) -> int:
    """Least version of a block: every buried rule in force has told old software to step aside."""
    rules = ((4, params.bip65_height), (3, params.bip66_height), (2, params.bip34_height))
    return next((version for version, since in rules if height >= since), 0)


def check_block(block: Block, params: ChainParams) -> None:
    """Check a block's body by itself; its signature is not looked at.

    Raises:
        InvalidBlock: with Elements' reject code, also where a transaction is at fault.
    Source: elements/blocks.md 5.
    """
    del params
    root, mutated = block.transaction_root()
    if root != block.header.merkle_root:
        raise InvalidBlock("bad-txnmrklroot")
    if mutated:
        raise InvalidBlock("bad-txns-duplicate")
    count = len(block.transactions)
    weight_max_wu = MAX_BLOCK_WEIGHT_WU
    if not count or WITNESS_SCALE * max(count, block.stripped_size) > weight_max_wu:
        raise InvalidBlock("bad-blk-length")
    if not block.transactions[0].is_coinbase:
        raise InvalidBlock("bad-cb-missing")
    if any(tx.is_coinbase for tx in block.transactions[1:]):
        raise InvalidBlock("bad-cb-multiple")
    for tx in block.transactions:
        try:
            check_transaction(tx)
        except InvalidTransaction as fault:
            raise InvalidBlock(fault.reason, fault.detail) from fault
    sigops = sum(legacy_sigops(tx) for tx in block.transactions)
    if sigops * WITNESS_SCALE > MAX_BLOCK_SIGOP_COST:
        raise InvalidBlock("bad-blk-sigops")


def contextual_check_block(block: Block, chain: HeaderChain, params: ChainParams) -> None:
    """Check a block's body against its place on top of `chain`.

    Raises:
        InvalidBlock: "bad-txns-nonfinal", "bad-cb-height", "bad-cb-witness", one of the witness
            commitment codes, or "bad-blk-weight".
    Source: elements/blocks.md 5.
    """
    height = chain.tip_height + 1
    lock_time_s = block.header.time
    if height >= params.csv_height:
        lock_time_s = median_time_past(chain, chain.tip_height)
    if not all(is_final(tx, height=height, time_s=lock_time_s) for tx in block.transactions):
        raise InvalidBlock("bad-txns-nonfinal")
    coinbase = block.transactions[0]
    starts_with_height = coinbase.inputs[0].script_sig.startswith(push_number(height))
    if height >= params.bip34_height and not starts_with_height:
        raise InvalidBlock("bad-cb-height")
    witness = coinbase.input_witnesses[0]
    if witness.issuance_range_proof or witness.inflation_range_proof or witness.pegin:
        raise InvalidBlock("bad-cb-witness")
    if height >= params.segwit_height:
        check_witness_commitment(block)
    elif any(tx.has_witness for tx in block.transactions):
        raise InvalidBlock("unexpected-witness")
    if block.weight_wu > MAX_BLOCK_WEIGHT_WU:
        raise InvalidBlock("bad-blk-weight")


def witness_commitment(root: bytes, reserved: bytes) -> bytes:
    """The 32 bytes a coinbase commits to.

    Args:
        root: `Block.witness_root()`.
        reserved: the 32-byte item of the coinbase's script witness.
    """
    return sha256d(root + reserved)


def commitment_index(coinbase: Transaction) -> int | None:
    """Position of the output that holds the witness commitment: the last of its form."""
    found = None
    for index, output in enumerate(coinbase.outputs):
        long_enough = len(output.script) >= _COMMITMENT_SCRIPT_BYTES
        if long_enough and output.script.startswith(WITNESS_COMMITMENT_PREFIX):
            found = index
    return found


def fill_coinbase_witness(block: Block) -> Block:
    """The block with the usual reserved value, where its coinbase commits but has no witness.

    Source: elements/interfaces.md 2 (`submitblock`).
    """
    if not block.transactions:
        return block
    coinbase, *others = block.transactions
    if coinbase.has_witness or not coinbase.inputs or commitment_index(coinbase) is None:
        return block
    reserved = InputWitness(script=(bytes(32),))
    filled = Transaction.build(
        version=coinbase.version,
        inputs=coinbase.inputs,
        outputs=coinbase.outputs,
        locktime=coinbase.locktime,
        input_witnesses=[reserved, *coinbase.input_witnesses[1:]],
    )
    return Block(block.header, (filled, *others))


def check_witness_commitment(block: Block) -> None:
    """Check that the coinbase commits to the witnesses of a block with at least a coinbase.

    Raises:
        InvalidBlock: "unexpected-witness", "bad-witness-nonce-size" or "bad-witness-merkle-match".
    Source: elements/blocks.md 5.1.
    """
    coinbase = block.transactions[0]
    index = commitment_index(coinbase)
    if index is None:
        if any(tx.has_witness for tx in block.transactions):
            raise InvalidBlock("unexpected-witness")
        return
    items = coinbase.input_witnesses[0].script
    if len(items) != 1 or len(items[0]) != 32:
        raise InvalidBlock("bad-witness-nonce-size")
    committed = coinbase.outputs[index].script[6:_COMMITMENT_SCRIPT_BYTES]
    if committed != witness_commitment(block.witness_root(), items[0]):
        raise InvalidBlock("bad-witness-merkle-match")
