"""RPC methods that make blocks: proposals for functionaries, and whole blocks where none sign.

Source: elements/interfaces.md 2, elements/blocks.md 5.3.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sidechain.api.arguments import (
    array_argument,
    flag_argument,
    integer_argument,
    object_argument,
    text_argument,
)
from sidechain.api.registry import (
    DESERIALIZATION_ERROR,
    INTERNAL_ERROR,
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    MISC_ERROR,
    TYPE_ERROR,
    VERIFY_ERROR,
    Registry,
    RpcError,
)
from sidechain.api.rpc_descriptors import NEEDS_PRIVATE_KEYS
from sidechain.api.rpc_submit import Submission, decode_block
from sidechain.chain import Chain
from sidechain.crypto.keys import is_public_key
from sidechain.errors import InvalidBlock, InvalidEncoding
from sidechain.params import ChainParams
from sidechain.policy.template import TemplateRules, build_template
from sidechain.primitives.address import decode_address
from sidechain.primitives.block import FULL_KIND, NULL_ENTRY, Block, ParamEntry
from sidechain.primitives.transaction import Transaction
from sidechain.script.block_signature import verify_block_signature
from sidechain.script.block_solution import solution_script, solution_witness
from sidechain.script.opcodes import OP_RETURN
from sidechain.script.script import p2wsh, push
from sidechain.validation.deployments import dynafed_active, template_version

MAX_WITNESS_LIMIT = 2**31 - 1

_OP_TRUE = b"\x51"


class MiningMethods:
    """Methods that make blocks on the tip of a chain."""

    def __init__(
        self,
        chain: Chain,
        submission: Submission,
        *,
        unix_time_s: Callable[[], int],
        script_of: Callable[[str], bytes],
        rules: TemplateRules | None = None,
    ) -> None:
        """
        Args:
            script_of: the output script of a descriptor; raises RpcError.
            rules: how blocks are filled.
        """
        self._chain = chain
        self._submission = submission
        self._unix_time_s = unix_time_s
        self._script_of = script_of
        self._rules = rules or TemplateRules()
        self._last_block: tuple[int, int] | None = None

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("getnewblockhex", self.getnewblockhex, "The next block, unsigned.")
        add("combineblocksigs", self.combineblocksigs, "Put signatures into a proposal.")
        add("getmininginfo", self.getmininginfo, "State of block making.")
        add("generatetoaddress", self.generatetoaddress, "Make blocks that nobody signs.")
        add("generatetodescriptor", self.generatetodescriptor, "Make blocks that nobody signs.")
        add("generateblock", self.generateblock, "Make a block of given transactions.")

    async def getnewblockhex(
        self, min_tx_age: Any = None, proposed_parameters: Any = None, commit_data: Any = None
    ) -> str:
        """The next block, unsigned; complete where the signblockscript is OP_TRUE in P2WSH."""
        age_s = 0 if min_tx_age is None else integer_argument(min_tx_age)
        if age_s < 0:
            raise RpcError(INVALID_PARAMETER, "min_tx_age must be non-negative.")
        proposed = self._proposal(proposed_parameters)
        scripts = [bytes((OP_RETURN,)) + push(data) for data in _commit_data(commit_data)]
        block = await self._template(
            self._waiting(age_s), proposed=proposed, coinbase_scripts=scripts
        )
        return _open_block(block).serialize().hex()

    async def next_block(self) -> Block:
        """The next block of what waits in the mempool, found valid but for its signature."""
        return await self._template(self._waiting(0))

    def _proposal(self, value: Any) -> ParamEntry:
        if value is None:
            return NULL_ENTRY
        object_argument(value)
        chain = self._chain
        if not dynafed_active(chain, chain.tip_height, chain.params):
            raise RpcError(
                INVALID_PARAMETER,
                "Dynamic federations is not active on this network. Proposed parameters are not "
                "needed.",
            )
        signblockscript = _hex_field(value, "signblockscript")
        limit = integer_argument(value.get("max_block_witness"))
        if not -MAX_WITNESS_LIMIT <= limit <= MAX_WITNESS_LIMIT:
            raise RpcError(MISC_ERROR, "JSON integer out of range")
        if limit < 0:
            raise RpcError(INVALID_PARAMETER, "max_block_witness must be non-negative")
        fedpegscript = _hex_field(value, "fedpegscript")
        items = array_argument(value.get("extension_space"))
        return ParamEntry(
            kind=FULL_KIND,
            signblockscript=signblockscript,
            witness_limit=limit,
            fedpeg_program=p2wsh(fedpegscript),
            fedpegscript=fedpegscript,
            extension_space=tuple(_lenient_hex(text_argument(item)) for item in items),
        )

    def _waiting(self, age_s: int) -> list[Transaction]:
        """Transactions of the mempool for the next block that have waited long enough."""
        chain = self._chain
        entry = chain.full_current()
        rules = self._rules
        overhead = rules.reserved_weight_wu + 4 * len(entry.serialize()) + 4 * entry.witness_limit
        chosen = chain.select_transactions(
            max(rules.max_weight_wu - overhead, 0),
            min_fee_sats_per_kvb=rules.min_fee_sats_per_kvb,
        )
        latest_s = self._unix_time_s() - age_s
        young: set[bytes] = set()
        for tx in chosen if age_s else ():
            known = chain.mempool.get(tx.txid)
            parents = {item.prevout.txid for item in tx.inputs}
            if known is None or known.time_s > latest_s or parents & young:
                young.add(tx.txid)
        return [tx for tx in chosen if tx.txid not in young]

    async def _template(
        self,
        transactions: Sequence[Transaction],
        *,
        proposed: ParamEntry = NULL_ENTRY,
        coinbase_scripts: Sequence[bytes] = (),
        fee_script: bytes | None = None,
        takes_fees: bool = True,
    ) -> Block:
        """The next block, found valid but for its signature."""
        chain = self._chain
        claims = [tx for tx in transactions if any(item.is_pegin for item in tx.inputs)]
        facts = await self._submission.facts(claims)
        block = build_template(
            chain,
            chain.params,
            time_s=max(chain.median_time_s + 1, self._unix_time_s()),
            coinbase_scripts=coinbase_scripts,
            transactions=transactions,
            proposed=proposed,
            version=self._version(),
            fee_script=fee_script,
            takes_fees=takes_fees,
        )
        try:
            chain.test_proposal(block, facts=facts, now_s=self._unix_time_s())
        except InvalidBlock as fault:
            text = f"CreateNewBlock: TestBlockValidity failed: {fault}"
            raise RpcError(MISC_ERROR, text) from fault
        weight = _reserved_weight(block, chain.params, self._rules.reserved_weight_wu)
        weight += sum(tx.weight_wu for tx in transactions)
        self._last_block = (weight, len(transactions))
        return block

    def _version(self) -> int:
        chain = self._chain
        if self._rules.version is not None:
            return self._rules.version
        return template_version(chain, chain.tip_height, chain.params, chain.deployment_states)

    def combineblocksigs(
        self, blockhex: Any, signatures: Any, witnessScript: Any = None
    ) -> dict[str, Any]:
        """Put signatures into a proposal, as many as there are."""
        block = decode_block(blockhex, self._chain)
        found = _signatures(array_argument(signatures))
        header = block.header
        if header.is_dynafed:
            if witnessScript is None:
                raise RpcError(
                    INVALID_PARAMETER,
                    "Signing dynamic blocks requires the witnessScript argument",
                )
            script = _lenient_hex(text_argument(witnessScript))
            witness = solution_witness(header.current.signblockscript, found, script)
            header = replace(header, signblock_witness=witness)
        else:
            header = replace(header, solution=solution_script(header.challenge, found))
        signed = Block(header, block.transactions)
        try:
            verify_block_signature(header, self._chain.params)
        except InvalidBlock:
            return {"hex": signed.serialize().hex(), "complete": False}
        return {"hex": signed.serialize().hex(), "complete": True}

    def getmininginfo(self) -> dict[str, Any]:
        """State of block making; there is no difficulty where blocks are signed."""
        chain = self._chain
        shown: dict[str, Any] = {"blocks": chain.tip_height}
        if self._last_block is not None:
            shown["currentblockweight"], shown["currentblocktx"] = self._last_block
        return shown | {
            "pooledtx": len(chain.mempool),
            "chain": chain.params.name,
            "warnings": [],
        }

    async def generatetoaddress(
        self, nblocks: Any, address: Any, maxtries: Any = None
    ) -> list[str]:
        """Make blocks that nobody has to sign, and have them pay an address."""
        del maxtries
        count = integer_argument(nblocks)
        try:
            script = decode_address(text_argument(address), self._chain.params.prefixes).script
        except InvalidEncoding as error:
            raise RpcError(INVALID_ADDRESS_OR_KEY, "Error: Invalid address") from error
        return await self._generate(count, script)

    async def generatetodescriptor(
        self, num_blocks: Any, descriptor: Any, maxtries: Any = None
    ) -> list[str]:
        """Make blocks that nobody has to sign, and have them pay a descriptor's script."""
        del maxtries
        count = integer_argument(num_blocks)
        return await self._generate(count, self._script_of(text_argument(descriptor)))

    async def _generate(self, count: int, script: bytes) -> list[str]:
        made = []
        for _ in range(count):
            block = await self._template(self._waiting(0), fee_script=script)
            made.append((await self._finish(block)).hash[::-1].hex())
        return made

    async def generateblock(
        self, output: Any, transactions: Any, submit: Any = None
    ) -> dict[str, Any]:
        """Make a block of given transactions, in their order."""
        script = self._output_script(text_argument(output))
        chosen = [self._given(text_argument(item)) for item in array_argument(transactions)]
        to_submit = flag_argument(submit, True)
        try:
            # elementsd makes the coinbase of an empty block, so the fees are left.
            block = await self._template(chosen, fee_script=script, takes_fees=False)
        except RpcError as error:
            text = error.message.removeprefix("CreateNewBlock: ")
            raise RpcError(VERIFY_ERROR, text) from error
        block = await self._finish(block, submit=to_submit)
        shown = {"hash": block.hash[::-1].hex()}
        return shown if to_submit else shown | {"hex": block.serialize().hex()}

    def _output_script(self, text: str) -> bytes:
        try:
            return self._script_of(text)
        except RpcError as error:
            if error.code != INVALID_ADDRESS_OR_KEY or error.message == NEEDS_PRIVATE_KEYS:
                raise
        try:
            return decode_address(text, self._chain.params.prefixes).script
        except InvalidEncoding as error:
            raise RpcError(
                INVALID_ADDRESS_OR_KEY, "Error: Invalid address or descriptor"
            ) from error

    def _given(self, text: str) -> Transaction:
        raw = _lenient_hex(text)
        if len(raw) == 32:
            known = self._chain.mempool.get(raw[::-1])
            if known is None:
                raise RpcError(INVALID_ADDRESS_OR_KEY, f"Transaction {text} not in mempool.")
            return known.tx
        try:
            return Transaction.decode(raw)
        except InvalidEncoding as error:
            raise RpcError(
                DESERIALIZATION_ERROR,
                f"Transaction decode failed for {text}. Make sure the tx has at least one input.",
            ) from error

    async def _finish(self, block: Block, *, submit: bool = True) -> Block:
        """The block as complete as it gets without keys, and in the chain if asked for."""
        block = _open_block(block)
        if block.header.is_dynafed and not block.header.signblock_witness:
            raise RpcError(
                MISC_ERROR,
                "Unable to fill out dynamic federation signblockscript witness, are you sure "
                "it's WSH(OP_TRUE)?",
            )
        if submit:
            answer = await self._submission.submit(block)
            if answer not in (None, "duplicate", "inconclusive"):
                raise RpcError(INTERNAL_ERROR, "ProcessNewBlock, block not accepted")
        return block


def _reserved_weight(block: Block, params: ChainParams, reserved_wu: int) -> int:
    """What elementsd counts for a block beside its payments, whatever they really weigh."""
    header = block.header
    if not header.is_dynafed:
        proof = len(params.signblockscript) + params.max_block_sig_size
        return reserved_wu + 4 * proof
    entries = len(header.current.serialize()) + len(header.proposed.serialize())
    return reserved_wu + 4 * entries + header.current.witness_limit


def _open_block(block: Block) -> Block:
    """The block with its signatures where it needs none."""
    if block.header.current.signblockscript == p2wsh(_OP_TRUE):
        return block.with_signblock_witness((_OP_TRUE,))
    return block


def _signatures(items: Sequence[Any]) -> dict[bytes, bytes]:
    found = {}
    for item in items:
        if not isinstance(item, dict):
            raise RpcError(TYPE_ERROR, "JSON value is not of expected type object")
        key_text, signature_text = text_argument(item.get("pubkey")), text_argument(item.get("sig"))
        key, signature = _lenient_hex(key_text), _lenient_hex(signature_text)
        if not key or not signature:
            # Whatever is not hex is passed over.
            continue
        if not is_public_key(key):
            raise RpcError(DESERIALIZATION_ERROR, "Bad pubkey")
        found[key] = signature
    return found


def _commit_data(value: Any) -> list[bytes]:
    if value is None:
        return []
    items = [value] if isinstance(value, str) else array_argument(value)
    return [_lenient_hex(text_argument(item)) for item in items]


def _hex_field(value: dict[str, Any], name: str) -> bytes:
    text = text_argument(value.get(name))
    raw = _lenient_hex(text)
    if not raw:
        raise RpcError(INVALID_PARAMETER, f"{name} must be hex")
    return raw


def _lenient_hex(text: str) -> bytes:
    """Bytes in hex; anything else is taken for nothing, as elementsd takes it."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
