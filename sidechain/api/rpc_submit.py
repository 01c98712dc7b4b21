"""RPC methods that put blocks into the chain, judge proposals, and say which blocks count.

Source: elements/interfaces.md 2 and 3, elements/peg.md 7.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sidechain.api.arguments import (
    encoded_argument,
    flag_argument,
    hash_argument,
    text_argument,
)
from sidechain.api.registry import (
    DESERIALIZATION_ERROR,
    INVALID_ADDRESS_OR_KEY,
    VERIFY_ALREADY_IN_CHAIN,
    VERIFY_ERROR,
    Registry,
    RpcError,
)
from sidechain.chain import Chain
from sidechain.errors import InvalidBlock, InvalidEncoding, InvalidTransaction
from sidechain.params import DUST_RELAY_FEE_SATS_PER_KVB
from sidechain.policy.standardness import check_standard
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.encoding import Reader
from sidechain.primitives.transaction import Transaction
from sidechain.validation.pegins import ParentFacts

BLOCK_DECODE_FAILED = "Block decode failed"

FactsFor = Callable[[Transaction], Awaitable[ParentFacts | None]]
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class CombinedFacts:
    """`ParentFacts` of several askings; what none of them knows is unknown."""

    parts: Sequence[ParentFacts] = ()

    def block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
        """Confirmations and number of transactions of a block, or None."""
        found = (part.block_facts(block_hash) for part in self.parts)
        return next((facts for facts in found if facts is not None), None)


class Submission:
    """Moves a chain with what has to be known of the parent chain.

    Everything is asked before the chain is touched, because the chain does not wait; what a
    reorganisation turns out to need on top is asked afterwards, and the chain tried again.
    """

    def __init__(self, chain: Chain, facts_for: FactsFor, unix_time_s: Callable[[], int]) -> None:
        self._chain = chain
        self._facts_for = facts_for
        self._unix_time_s = unix_time_s

    async def facts(self, claims: Sequence[Transaction]) -> ParentFacts | None:
        """What is known of the deposits behind some peg-ins; None where nobody is asked."""
        if not self._chain.params.validate_pegin:
            return None
        found = [await self._facts_for(tx) for tx in claims]
        if found and not any(part is not None for part in found):
            return None
        return CombinedFacts([part for part in found if part is not None])

    async def run(
        self, act: Callable[[ParentFacts | None, int], _Result], block: Block | None = None
    ) -> _Result:
        """Have the chain moved by `act`, which gets the facts and the time.

        Args:
            block: the one that `act` submits.
        """
        claims = self._chain.claims_awaited(block)
        facts = await self.facts(claims)
        result = act(facts, self._unix_time_s())
        asked = {tx.txid for tx in claims}
        while more := [tx for tx in self._chain.claims_awaited() if tx.txid not in asked]:
            claims = (*claims, *more)
            asked |= {tx.txid for tx in more}
            facts = await self.facts(claims)
            self._chain.activate(facts=facts, now_s=self._unix_time_s())
        return result

    async def catch_up(self) -> None:
        """Follow the best chain from where it was left: after opening, or when deposits ripen."""
        await self.run(lambda facts, now_s: self._chain.activate(facts=facts, now_s=now_s))

    async def submit(self, block: Block) -> str | None:
        """Take in a block; the answer of BIP22."""
        return await self.run(
            lambda facts, now_s: self._chain.submit_block(block, facts=facts, now_s=now_s), block
        )


class SubmitMethods:
    """Methods that may change the tip."""

    def __init__(
        self,
        chain: Chain,
        submission: Submission,
        *,
        unix_time_s: Callable[[], int],
    ) -> None:
        self._chain = chain
        self._submission = submission
        self._unix_time_s = unix_time_s

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("submitblock", self.submitblock, "Take in a signed block; BIP22's answer.")
        add("submitheader", self.submitheader, "Take note of a header.")
        add("testproposedblock", self.testproposedblock, "Judge an unsigned block on the tip.")
        add("invalidateblock", self.invalidateblock, "Call a block invalid.")
        add("reconsiderblock", self.reconsiderblock, "Forget that blocks have failed.")
        add("preciousblock", self.preciousblock, "Prefer a block to others of its height.")

    async def submitblock(self, hexdata: Any, dummy: Any = None) -> str | None:
        """Take in a signed block; BIP22's answer. The second parameter is ignored."""
        if dummy is not None:
            text_argument(dummy)
        return await self._submission.submit(decode_block(hexdata, self._chain))

    def submitheader(self, hexdata: Any) -> None:
        """Take note of a header whose block may come later."""
        failure = "Block header decode failed"
        try:
            reader = Reader(encoded_argument(hexdata, failure))
            header = BlockHeader.read(reader, self._chain.params)
        except InvalidEncoding as error:
            raise RpcError(DESERIALIZATION_ERROR, failure) from error
        if not self._chain.branches.knows(header.prev_hash):
            shown = header.prev_hash[::-1].hex()
            raise RpcError(VERIFY_ERROR, f"Must submit previous header ({shown}) first")
        try:
            self._chain.submit_header(header, now_s=self._unix_time_s())
        except InvalidBlock as fault:
            raise RpcError(VERIFY_ERROR, fault.reason) from fault

    async def testproposedblock(self, blockhex: Any, acceptnonstd: Any = None) -> None:
        """Judge an unsigned block on top of the tip."""
        chain = self._chain
        block = decode_block(blockhex, chain)
        nonstandard = flag_argument(acceptnonstd, chain.params.accept_nonstandard)
        if chain.branches.knows(block.hash):
            raise RpcError(VERIFY_ALREADY_IN_CHAIN, "already have block")
        claims = [tx for tx in block.transactions if any(i.is_pegin for i in tx.inputs)]
        facts = await self._submission.facts(claims)
        if block.header.prev_hash != chain.tip_hash:
            raise RpcError(VERIFY_ERROR, "proposal was not based on our best chain")
        try:
            chain.test_proposal(block, facts=facts, now_s=self._unix_time_s())
        except InvalidBlock as fault:
            raise RpcError(VERIFY_ERROR, fault.reason) from fault
        if not nonstandard:
            _check_standard(block, chain)

    async def invalidateblock(self, blockhash: Any) -> None:
        """Call a block invalid; it leaves the chain with all that stands on it."""
        wanted = self._known(blockhash)
        if wanted == self._chain.params.genesis_hash:
            # As elementsd: nothing happens, and nothing is said.
            return
        await self._submission.run(
            lambda facts, now_s: self._chain.invalidate_block(wanted, facts=facts, now_s=now_s)
        )

    async def reconsiderblock(self, blockhash: Any) -> None:
        """Forget that a block, those under it and those on it have failed."""
        wanted = self._known(blockhash)
        await self._submission.run(
            lambda facts, now_s: self._chain.reconsider_block(wanted, facts=facts, now_s=now_s)
        )

    async def preciousblock(self, blockhash: Any) -> None:
        """Treat a block as if it had come before all others of its height."""
        wanted = self._known(blockhash)
        await self._submission.run(
            lambda facts, now_s: self._chain.precious_block(wanted, facts=facts, now_s=now_s)
        )

    def _known(self, blockhash: Any) -> bytes:
        wanted = hash_argument(blockhash, "blockhash")
        if not self._chain.branches.knows(wanted):
            raise RpcError(INVALID_ADDRESS_OR_KEY, "Block not found")
        return wanted


def decode_block(value: Any, chain: Chain) -> Block:
    """A block in hex; what is behind it does not matter, as in elementsd."""
    try:
        raw = encoded_argument(value, BLOCK_DECODE_FAILED)
        return Block.read(Reader(raw), chain.params)
    except InvalidEncoding as error:
        raise RpcError(DESERIALIZATION_ERROR, BLOCK_DECODE_FAILED) from error


def _check_standard(block: Block, chain: Chain) -> None:
    # elementsd asks here without the size it allows for data outputs, so it takes none of them;
    # what a node is told of bare multisigs and dust counts for its mempool alone.
    params = replace(
        chain.params,
        max_data_carrier_bytes=None,
        permit_bare_multisig=True,
        dust_relay_fee_sats_per_kvb=DUST_RELAY_FEE_SATS_PER_KVB,
    )
    for tx in block.transactions[1:]:
        try:
            check_standard(tx, params)
        except InvalidTransaction as fault:
            raise RpcError(
                VERIFY_ERROR,
                f"Block proposal included a non-standard transaction: {fault.reason}",
            ) from fault
