"""Deposits to registered claim scripts on the committed Bitcoin chain, and whose turn a claim is.

Pure: the shell reads blocks, this file remembers what they hold for a bounded number of blocks.

Source: peg:4 ("Who claims when"), peg:C2, peg:C6, N20.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from peg.history import PegHistory
from peg.parameters import PegParameters
from sidechain.params import COINBASE_MATURITY_BLOCKS
from sidechain.primitives.parent import ParentBlock
from sidechain.primitives.transaction import OutPoint

TURN_BLOCKS = 2
"""After so many sidechain blocks the next member claims too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CovenantDeposit:
    """A Bitcoin output that pays the deposit script of a registered claim script."""

    outpoint: OutPoint
    value_sats: int
    claim_script: bytes
    deposit_script: bytes
    height: int
    block_hash: bytes
    is_coinbase: bool

    def required_depth(self, parameters: PegParameters) -> int:
        """Confirmations a claim needs. Source: peg:C2."""
        least = COINBASE_MATURITY_BLOCKS if self.is_coinbase else 0
        return max(parameters.pegin_depth, least)


class CovenantWatch:
    """Index of one chain's newest blocks. One owner: `peg.covenant_claims`."""

    def __init__(self) -> None:
        """Start empty: nothing read, nothing watched."""
        self._scripts: dict[bytes, bytes] = {}
        self._hashes: dict[int, bytes] = {}
        self._deposits: dict[OutPoint, CovenantDeposit] = {}
        self._next = 0

    @property
    def deposits(self) -> Mapping[OutPoint, CovenantDeposit]:
        """All deposits that are remembered."""
        return self._deposits

    @property
    def height(self) -> int:
        """The highest block read; -1 before the first."""
        return max(self._hashes, default=-1)

    @property
    def lowest(self) -> int:
        """The lowest block remembered."""
        return min(self._hashes, default=0)

    def hash_at(self, height: int) -> bytes | None:
        """The block read at a height."""
        return self._hashes.get(height)

    def watch(self, claim_script: bytes, deposit_scripts: Iterable[bytes]) -> None:
        """Look for outputs to these scripts in blocks fed from now on."""
        for script in deposit_scripts:
            self._scripts[script] = claim_script

    def claim_script_of(self, script: bytes) -> bytes | None:
        """The claim script that deposits to a script are for."""
        return self._scripts.get(script)

    def forget(self, claim_script: bytes) -> None:
        """Watch a claim script no more."""
        kept = {script: claim for script, claim in self._scripts.items() if claim != claim_script}
        self._scripts = kept

    def busy(self) -> frozenset[bytes]:
        """Claim scripts with a deposit."""
        return frozenset(deposit.claim_script for deposit in self._deposits.values())

    def start(self, height: int) -> None:
        """Begin with the block of this height, forgetting everything read."""
        self._hashes.clear()
        self._deposits.clear()
        self._next = height

    def next_height(self) -> int:
        """The block to feed next."""
        return self.height + 1 if self._hashes else self._next

    def append(self, block: ParentBlock) -> bool:
        """Read the next block; False, and nothing is read, when it does not follow the last."""
        height = self.next_height()
        if self._hashes and block.header.prev_hash != self._hashes[height - 1]:
            return False
        self._hashes[height] = block.header.hash
        self._scan(block, height, None)
        return True

    def rescan(self, block: ParentBlock, height: int, claim_scripts: frozenset[bytes]) -> None:
        """Read a block again for claim scripts that were registered after it was read."""
        if self._hashes.get(height) == block.header.hash:
            self._scan(block, height, claim_scripts)

    def cut_above(self, height: int) -> None:
        """Forget blocks above a height, as when another branch begins there."""
        for above in [known for known in self._hashes if known > height]:
            del self._hashes[above]
        for outpoint in [key for key, found in self._deposits.items() if found.height > height]:
            del self._deposits[outpoint]

    def prune_below(self, height: int) -> None:
        """Forget blocks and deposits below a height: no claim of them is possible."""
        if height > self.height:
            return
        for below in [known for known in self._hashes if known < height]:
            del self._hashes[below]
        for outpoint in [key for key, found in self._deposits.items() if found.height < height]:
            del self._deposits[outpoint]

    def _scan(self, block: ParentBlock, height: int, only: frozenset[bytes] | None) -> None:
        for position, transaction in enumerate(block.transactions):
            for index, (value_sats, script) in enumerate(transaction.outputs):
                claim_script = self._scripts.get(script)
                if claim_script is None or (only is not None and claim_script not in only):
                    continue
                outpoint = OutPoint(transaction.txid, index)
                self._deposits[outpoint] = CovenantDeposit(
                    outpoint=outpoint,
                    value_sats=value_sats,
                    claim_script=claim_script,
                    deposit_script=script,
                    height=height,
                    block_hash=block.header.hash,
                    is_coinbase=position == 0,
                )


def ripe_height(
    deposit: CovenantDeposit, history: PegHistory, parameters: PegParameters
) -> int | None:
    """The first final block whose commitment is deep enough over a deposit; None before it.

    A function of the chain, so that members agree on whose turn it is.
    """
    needed = deposit.height + deposit.required_depth(parameters) - parameters.commit_depth
    needed = max(needed, deposit.height)
    low, high = 1, history.height + 1
    while low < high:
        middle = (low + high) // 2
        if history.totals(middle).clock >= needed:
            high = middle
        else:
            low = middle + 1
    return low if low <= history.height else None


def turn_height(deposit: CovenantDeposit, ripe_at: int, member: int, members: int) -> int:
    """From which final block on a member claims: (deposit txid mod n) first, each next later."""
    first = int.from_bytes(deposit.outpoint.txid, "little") % members
    return ripe_at + TURN_BLOCKS * ((member - first) % members)
