"""What is fuzzed: each target reads any bytes, and must refuse them or read them exactly.

A target raises for nothing but a broken property. `examine` also counts its work and its memory.
"""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, replace

from sidechain.api.dispatch import Dispatcher
from sidechain.api.http_messages import BadMessage, parse_head
from sidechain.api.json_text import decode
from sidechain.api.registry import Registry
from sidechain.errors import (
    InvalidBlock,
    InvalidEncoding,
    InvalidTransaction,
    ScriptError,
    Stalled,
)
from sidechain.params import ELEMENTS_REGTEST, AddressPrefixes
from sidechain.primitives.address import decode_address, encode_address
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.compact_block import CompactBlock
from sidechain.primitives.encoding import Reader
from sidechain.primitives.parent import parse_merkle_block, parse_parent_block, parse_parent_tx
from sidechain.primitives.signed_parent import parse_signed_merkle_block
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn, TxOut
from sidechain.primitives.tx_parts import InputWitness
from sidechain.script.flags import CONSENSUS_FLAGS, STANDARD_FLAGS, Flags
from sidechain.script.interpreter import run_input
from sidechain.script.script import (
    classify,
    count_sigops,
    iter_ops,
    last_push,
    parse_multisig,
    witness_program,
)
from sidechain.script.sighash import SighashCache
from sidechain.validation.block_check import check_block
from sidechain.validation.dynafed import nested_program
from sidechain.validation.pegins import FedpegPair, check_pegin
from sidechain.validation.pegouts import parse_pegout
from sidechain.validation.tx_check import check_transaction
from sidechain.wallet.descriptor import account_descriptor, parse_descriptor
from sidechain.wallet.keys import PublicAccount
from sidechain.wallet.pset import view_pset
from tests.factories import federation_params, output
from tests.fuzz.work import Bounds, CountedBytes, check_memory, counted

PARAMS = federation_params()
SIGNED_PARENT = replace(PARAMS, parent_chain_signblockscript=b"\x51")
PREFIXES: tuple[AddressPrefixes, ...] = (PARAMS.prefixes, ELEMENTS_REGTEST)
SPENDABLE_SATS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One reader under test.

    Attributes:
        read: raises only when a property is broken.
        bounds: its work for each byte.
    """

    read: Callable[[bytes], None]
    bounds: Bounds


def examine(target: Target, data: bytes) -> None:
    """All properties of one input: what it reads to, its work, its memory."""
    with counted() as work:
        target.read(CountedBytes.of(data, work))
    target.bounds.check(work, len(data))
    check_memory(lambda: target.read(data), len(data))


def read_transaction(data: bytes) -> None:
    """A transaction that decodes is written as it was read, and its parts are too."""
    try:
        tx = Transaction.decode(data)
    except InvalidEncoding:
        return
    assert tx.raw == bytes(data)
    again = Transaction.build(
        version=tx.version,
        inputs=tx.inputs,
        outputs=tx.outputs,
        locktime=tx.locktime,
        input_witnesses=tx.input_witnesses,
        output_witnesses=tx.output_witnesses,
    )
    assert (again.raw, again.txid, again.wtxid) == (tx.raw, tx.txid, tx.wtxid)
    assert tx.base_size <= tx.total_size == len(data)
    assert tx.weight_wu == 3 * tx.base_size + tx.total_size
    try:
        check_transaction(tx)
    except InvalidTransaction:
        return


def read_block(data: bytes) -> None:
    """A block that decodes is written as it was read; its body is judged and nothing worse."""
    try:
        block = Block.decode(data, PARAMS)
    except InvalidEncoding:
        return
    if not _reads_as_another_form(block.header, data):
        assert block.serialize() == bytes(data)
        assert block.total_size == len(data)
    try:
        check_block(block, PARAMS)
    except InvalidBlock:
        return


def _reads_as_another_form(header: BlockHeader, data: bytes) -> bool:
    """The dynamic form without entries, which `BlockHeader.read` says is the one exception."""
    return not header.is_dynafed and bool(data[3] & 0x80)


def read_compact_block(data: bytes) -> None:
    """A compact block that is read is written as it was."""
    reader = Reader(data)
    try:
        compact = CompactBlock.read(reader, PARAMS)
    except InvalidEncoding:
        return
    if not _reads_as_another_form(compact.header, data):
        assert compact.serialize() == bytes(data[: reader.pos])
    try:
        compact.slots()
    except InvalidEncoding:
        return


def read_parent(data: bytes) -> None:
    """What the parent chain sends: proofs, blocks and transactions of both kinds of parents."""
    for read in (
        parse_merkle_block,
        parse_parent_tx,
        parse_parent_block,
        lambda item: parse_signed_merkle_block(item, SIGNED_PARENT),
    ):
        try:
            read(data)
        except InvalidEncoding:
            continue


def read_pegin(data: bytes) -> None:
    """A peg-in witness: six items, the outpoint it is for before them."""
    reader = Reader(data)
    try:
        prevout = OutPoint(reader.read(32), reader.u32())
        items = reader.vectors()
    except InvalidEncoding:
        return
    pairs = (FedpegPair(nested_program(PARAMS.fedpegscript), PARAMS.fedpegscript),)
    for chain in (PARAMS, SIGNED_PARENT):
        try:
            check_pegin(items, prevout, chain, pairs, None)
        except (InvalidTransaction, Stalled):
            continue


def read_script(data: bytes) -> None:
    """A script is taken apart without losing anything, and classified."""
    end = 0
    for op in iter_ops(data):
        assert op.end > end
        end = op.end
    assert end <= len(data)
    classify(data)
    parse_multisig(data)
    parse_pegout(data)
    witness_program(data)
    last_push(data)
    assert count_sigops(data, accurate=True) <= count_sigops(data, accurate=False)


def run_script(data: bytes) -> None:
    """An output's script and what spends it end with a verdict; policy is never the milder one."""
    reader = Reader(data)
    try:
        script_pubkey, script_sig = reader.vec(), reader.vec()
        witness = reader.vectors()
    except InvalidEncoding:
        return
    spent = output(PARAMS, script_pubkey, SPENDABLE_SATS)
    tx = Transaction.build(
        inputs=[TxIn(OutPoint(bytes(32), 1), script_sig=script_sig)],
        outputs=[_paid()],
        input_witnesses=[InputWitness(script=witness)],
    )
    verdicts = [_holds(tx, spent, flags) for flags in (CONSENSUS_FLAGS, STANDARD_FLAGS)]
    assert verdicts[0] or not verdicts[1]


def _paid() -> TxOut:
    return output(PARAMS, b"\x51", SPENDABLE_SATS)


def _holds(tx: Transaction, spent: TxOut, flags: Flags) -> bool:
    try:
        run_input(tx, 0, spent, flags, SighashCache(tx, [spent], PARAMS.genesis_hash))
    except ScriptError:
        return False
    return True


def read_address(data: bytes) -> None:
    """An address that is read has one meaning, and its usual form means the same."""
    text = data.decode("utf-8", "replace")
    for prefixes in PREFIXES:
        try:
            found = decode_address(text, prefixes)
        except InvalidEncoding:
            continue
        usual = encode_address(found.script, prefixes, found.blinding_key)
        assert decode_address(usual, prefixes) == found


def read_descriptor(data: bytes) -> None:
    """A descriptor that is read is written, and read again as the same."""
    try:
        account = parse_descriptor(data.decode("utf-8", "replace"))
    except InvalidEncoding:
        return
    try:
        written = _written(account)
    except InvalidEncoding:
        return
    assert _written(parse_descriptor(written)) == written


def _written(account: PublicAccount) -> str:
    # Secret keys are not to be compared, so texts are.
    return account_descriptor(account, blinded=account.master_blinding_key is not None)


def read_pset(data: bytes) -> None:
    """A PSET is refused or shown."""
    try:
        view_pset(base64.b64encode(data).decode())
    except InvalidEncoding:
        return


def answer_rpc(data: bytes) -> None:
    """Every posted text is answered with JSON, and no method fails for what it is given."""
    registry = Registry()
    registry.add("say", _say, "Say it again.", aliases={"text": "first"})
    faults: list[BaseException] = []
    dispatcher = Dispatcher(
        registry, batch_requests=100, request_timeout_s=5, on_fault=faults.append
    )
    status, text = asyncio.run(dispatcher.answer(bytes(data)))
    assert status in (200, 204, 400, 404, 500)
    assert not faults, faults
    assert (status == 204) == (not text)
    if text:
        decode(text)


def _say(first: object = None, second: object = 0) -> list[object]:
    return [first, second]


def read_http(data: bytes) -> None:
    """A request's head is refused or has a plain path and a length of at least 0."""
    try:
        head = parse_head(bytes(data) + b"\r\n\r\n")
    except BadMessage as refusal:
        assert refusal.status in (400, 431, 501, 505)
        return
    assert b" " not in head.path and b"?" not in head.path
    assert head.length is None or head.length >= 0


TARGETS: dict[str, Target] = {
    "transaction": Target(
        read=read_transaction, bounds=Bounds(calls=30, hashes=1, curve_operations=0)
    ),
    "block": Target(read=read_block, bounds=Bounds(calls=40, hashes=1, curve_operations=0)),
    "compact_block": Target(
        read=read_compact_block, bounds=Bounds(calls=30, hashes=1, curve_operations=0)
    ),
    "parent": Target(read=read_parent, bounds=Bounds(calls=30, hashes=1, curve_operations=0)),
    "pegin": Target(read=read_pegin, bounds=Bounds(calls=40, hashes=1, curve_operations=1)),
    "script": Target(read=read_script, bounds=Bounds(calls=60, hashes=1, curve_operations=0)),
    "run_script": Target(read=run_script, bounds=Bounds(calls=300, hashes=10, curve_operations=4)),
    "address": Target(read=read_address, bounds=Bounds(calls=300, hashes=1, curve_operations=1)),
    "descriptor": Target(
        read=read_descriptor, bounds=Bounds(calls=60, hashes=1, curve_operations=1)
    ),
    "pset": Target(read=read_pset, bounds=Bounds(calls=30, hashes=1, curve_operations=2)),
    "rpc": Target(read=answer_rpc, bounds=Bounds(calls=100, hashes=0, curve_operations=0)),
    "http": Target(read=read_http, bounds=Bounds(calls=10, hashes=0, curve_operations=0)),
}
"""Every target by the name `deploy/fuzz` takes."""
