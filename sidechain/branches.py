"""Which blocks make up the chain: new ones, side branches, reorganisation, an operator's say.

The best chain is the longest whose blocks are all there and none of which has failed; of equally
long ones the first. Everything follows the order in which elementsd judges, so that the answers
are its answers. A block that fails where its hash cannot vouch for what was wrong (signatures,
Merkle roots, witnesses, a clock) is forgotten, and may come again; any other failure is kept.

Source: elements/blocks.md 3 to 5, elements/interfaces.md 2, elements/peg.md 3.2 and 7.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from sidechain.errors import InvalidBlock, InvariantError, Stalled
from sidechain.params import ChainParams
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.transaction import Transaction
from sidechain.script.block_signature import verify_block_signature
from sidechain.storage.block_tree import ANY_FAILURE, UNLINKED, Node, NodeFlags
from sidechain.storage.chainstate import ChainState
from sidechain.validation.block_check import (
    check_block,
    check_contextual_header,
    contextual_check_block,
)
from sidechain.validation.connect import BlockDelta, connect_block, validate_block
from sidechain.validation.headers import HeaderChain
from sidechain.validation.pegins import ParentFacts
from sidechain.validation.validator import Validator

MUTATED_REASONS = frozenset(
    [
        "bad-txnmrklroot",
        "bad-txns-duplicate",
        "bad-cb-witness",
        "bad-witness-nonce-size",
        "bad-witness-merkle-match",
        "unexpected-witness",
    ]
)
"""What another block of the same hash need not have: its own bytes were changed on the way."""

DUPLICATE = "duplicate"
DUPLICATE_INVALID = "duplicate-invalid"
INCONCLUSIVE = "inconclusive"


class BranchHeaders:
    """`HeaderChain` up to a block of the chain or beside it."""

    def __init__(self, state: ChainState, block_hash: bytes) -> None:
        """Raises InvariantError for a block that is not known."""
        self._state = state
        nodes = state.tree.ancestry(block_hash)
        below = state.height_of(nodes[0].prev_hash if nodes else block_hash)
        if below is None:
            raise InvariantError("a branch that does not start on the chain")
        self._fork_height = below
        self._hashes = [node.hash for node in nodes]

    @property
    def tip_height(self) -> int:
        """Height of the block."""
        return self._fork_height + len(self._hashes)

    def header(self, height: int) -> BlockHeader:
        """The header at a height up to the block."""
        if height <= self._fork_height:
            return self._state.header(height)
        return self._state.side_header(self._hashes[height - self._fork_height - 1])


@dataclass(slots=True, kw_only=True)
class Moves:
    """What one call did to the chain.

    Attributes:
        connected: blocks added, in order, also those that were taken off again.
        disconnected: blocks taken off, in order.
        verdicts: by hash what was found of each block that was judged as a whole: None where it
            was right, Elements' reject code where not.
        stalled: the best chain could not be followed, because a peg-in is not deep enough.
    """

    connected: list[Block] = field(default_factory=list)
    disconnected: list[Block] = field(default_factory=list)
    verdicts: dict[bytes, str | None] = field(default_factory=dict)
    stalled: bool = False


class Branches:
    """Decides what the chain is made of, and moves it there step by step."""

    def __init__(
        self, state: ChainState, params: ChainParams, validator: Validator | None = None
    ) -> None:
        self._state = state
        self._params = params
        self._validator = validator or Validator()
        self._precious_height = 0
        self._precious_sequence = -1

    def accept_header(self, header: BlockHeader, now_s: int) -> Node | None:
        """Take note of a header; None when it is one of the chain.

        Raises:
            InvalidBlock: with Elements' reject code.
        """
        known, found = self._known(header.hash)
        if known:
            return found
        verify_block_signature(header, self._params)
        node = self._node_of(header, self._parent_headers(header), now_s)
        self._state.add_beside(node, header, None)
        return node

    def submit(
        self, block: Block, facts: ParentFacts | None, now_s: int, moves: Moves
    ) -> str | None:
        """Take in a signed block and follow the best chain.

        Returns:
            The answer of BIP22: None when the block was connected, else a word or a reject code.
        """
        try:
            verify_block_signature(block.header, self._params)
            check_block(block, self._params)
            is_new = self._accept(block, facts, now_s, moves)
        except InvalidBlock as fault:
            return fault.reason
        self.activate(facts, moves, block)
        if not is_new:
            return DUPLICATE
        return moves.verdicts.get(block.hash, INCONCLUSIVE)

    def activate(
        self, facts: ParentFacts | None, moves: Moves, latest: Block | None = None
    ) -> None:
        """Follow the best chain, block by block, as far as it can be connected.

        Args:
            latest: a block that need not be read from the disk.
        Raises:
            Unavailable: the disk refuses; the chain is at one of the blocks on the way.
        """
        while (best := self._best()) is not None:
            path = self._state.tree.ancestry(best.hash)
            while path[0].prev_hash != self._state.tip_hash:
                self._disconnect(moves, NodeFlags.NONE)
            for node in path:
                known = latest if latest is not None and latest.hash == node.hash else None
                block = known or self.side_block(node.hash)
                try:
                    self._connect(block, facts, moves)
                except Stalled:
                    moves.stalled = True
                    return
                except InvalidBlock:
                    self._fail(node)
                    break

    def resume(self) -> None:
        """Finish what was begun before a crash, unless a deposit has to be known for it."""
        if not self.claims_awaited(None):
            self.activate(None, Moves())

    def invalidate(self, block_hash: bytes) -> Iterator[Moves]:
        """Call a block invalid, with all that stands on it; it leaves the chain.

        Yields:
            What changed, after each block that was taken off, the newest first.
        Raises:
            InvariantError: the block is not known, or is the genesis block.
        """
        height = self._state.height_of(block_hash)
        if height == 0:
            raise InvariantError("the genesis block cannot be called invalid")
        above: Node | None = None
        while height is not None and self._state.tip_height >= height:
            changed = [] if above is None else [_marked(above, NodeFlags.FAILED_BELOW)]
            moves = Moves()
            self._disconnect(moves, NodeFlags.FAILED, changed)
            above = self._state.tree.get(moves.disconnected[-1].hash)
            yield moves
        node = self._state.tree.get(block_hash)
        if node is None:
            raise InvariantError("a block is called invalid that is not known")
        self._fail(node)

    def reconsider(self, block_hash: bytes) -> None:
        """Forget the failures of a block, of those under it and of those on it."""
        tree = self._state.tree
        family = [*tree.ancestry(block_hash), *self._above(block_hash)]
        failed = [node for node in family if node.has_failed]
        self._state.change_beside(
            [replace(node, flags=node.flags & ~ANY_FAILURE) for node in failed]
        )

    def _above(self, block_hash: bytes) -> list[Node]:
        """Nodes that stand on a block, also by way of blocks of the chain."""
        tree, height = self._state.tree, self._state.height_of(block_hash)
        if height is None:
            return tree.descendants(block_hash)
        found: list[Node] = []
        for root in [node for node in tree.nodes() if node.prev_hash not in tree]:
            fork = self._state.height_of(root.prev_hash)
            if fork is not None and fork >= height:
                found += [root, *tree.descendants(root.hash)]
        return found

    def prefer(self, block_hash: bytes) -> None:
        """Treat a block as if it had come before all others of its height."""
        node, height = self._state.tree.get(block_hash), self._state.height_of(block_hash)
        if node is not None:
            height = node.height
        tip_height = self._state.tip_height
        if height is None or height < tip_height:
            return
        if tip_height > self._precious_height:
            self._precious_sequence = -1
        self._precious_height = tip_height
        sequence = self._precious_sequence
        self._precious_sequence -= 1
        if node is None:
            self._state.prefer_tip(sequence)
        elif node.is_linked:
            self._state.change_beside([replace(node, sequence=sequence)])

    def side_block(self, block_hash: bytes) -> Block:
        """A block beside the chain. Raises InvariantError when there is none."""
        return Block.decode(self._state.side_block_bytes(block_hash), self._params)

    def claims_awaited(self, block: Block | None) -> tuple[Transaction, ...]:
        """Peg-in transactions of the blocks on the way to the best chain.

        Args:
            block: one that is about to be submitted, counted with those under it.
        """
        best, tree = self._best(), self._state.tree
        path = [] if best is None else tree.ancestry(best.hash)
        if block is not None:
            path += tree.ancestry(block.header.prev_hash)
        waiting = dict.fromkeys(node.hash for node in path if node.has_data)
        blocks = [self.side_block(each) for each in waiting]
        if block is not None:
            blocks.append(block)
        found = [tx for each in blocks for tx in each.transactions]
        return tuple(tx for tx in found if any(item.is_pegin for item in tx.inputs))

    def knows(self, block_hash: bytes) -> bool:
        """Whether a block or its header was accepted, in the chain or beside it."""
        return block_hash in self._state.tree or self._state.height_of(block_hash) is not None

    def node(self, block_hash: bytes) -> Node | None:
        """What is known about a block beside the chain, or None."""
        return self._state.tree.get(block_hash)

    def tips(self) -> list[Node]:
        """The ends of all branches beside the chain, highest first."""
        return self._state.tree.tips()

    def branch_length(self, block_hash: bytes) -> int:
        """Blocks from the chain up to a block beside it; 0 for one of the chain."""
        return len(self._state.tree.ancestry(block_hash))

    def best_header_height(self) -> int:
        """Height of the highest header that has not failed."""
        return max(self._state.tip_height, self._state.tree.best_height())

    def headers_to(self, block_hash: bytes) -> HeaderChain:
        """The headers up to a known block, of the chain or beside it."""
        return BranchHeaders(self._state, block_hash)

    def has_witness_rules_on(self, block_hash: bytes) -> bool:
        """Whether a block is known and those on it commit to their witnesses."""
        since = self._params.segwit_height
        if not self.knows(block_hash):
            return False
        return since <= 1 or self.headers_to(block_hash).tip_height + 1 >= since

    def _best(self) -> Node | None:
        state = self._state
        return state.tree.best(state.tip_height, state.tip_sequence)

    def _known(self, block_hash: bytes) -> tuple[bool, Node | None]:
        """Whether a block is known, and its node where it is beside the chain."""
        node = self._state.tree.get(block_hash)
        if node is not None:
            if node.has_failed:
                raise InvalidBlock(DUPLICATE_INVALID)
            return True, node
        return self._state.height_of(block_hash) is not None, None

    def _parent_headers(self, header: BlockHeader) -> HeaderChain:
        """The chain that a header extends."""
        if header.prev_hash == self._state.tip_hash:
            return self._state
        parent = self._state.tree.get(header.prev_hash)
        if parent is None and self._state.height_of(header.prev_hash) is None:
            raise InvalidBlock("prev-blk-not-found")
        if parent is not None and parent.has_failed:
            raise InvalidBlock("bad-prevblk")
        return BranchHeaders(self._state, header.prev_hash)

    def _node_of(self, header: BlockHeader, below: HeaderChain, now_s: int) -> Node:
        check_contextual_header(header, below, self._params, now_s)
        return Node(hash=header.hash, prev_hash=header.prev_hash, height=below.tip_height + 1)

    def _accept(self, block: Block, facts: ParentFacts | None, now_s: int, moves: Moves) -> bool:
        """Judge a block by header and body, and keep it; False when it was there before.

        A block on the tip that nothing competes with is connected at once, in one batch.
        """
        header = block.header
        known, node = self._known(block.hash)
        if known and (node is None or node.has_data):
            return False
        below = self._parent_headers(header)
        if node is None:
            node = self._node_of(header, below, now_s)
        try:
            contextual_check_block(block, below, self._params)
        except InvalidBlock as fault:
            failed = fault.reason not in MUTATED_REASONS
            self._state.add_beside(
                _marked(node, NodeFlags.FAILED) if failed else node, header, None
            )
            raise
        if below is self._state and self._best() is None:
            self._extend(block, node, facts, moves)
        else:
            self._keep(node, block)
        return True

    def _extend(self, block: Block, node: Node, facts: ParentFacts | None, moves: Moves) -> None:
        try:
            self._connect(block, facts, moves)
            self._link_descendants(node)
        except Stalled:
            moves.stalled = True
            self._keep(node, block)
        except InvalidBlock:
            self._keep(_marked(node, NodeFlags.FAILED), block)
            # Headers on it may have come before it.
            self._fail(node)

    def _keep(self, node: Node, block: Block) -> None:
        """Store a block's bytes, and link what could not be connected without it."""
        parent = self._state.tree.get(node.prev_hash)
        linked = parent is None or parent.is_linked
        node = replace(
            node,
            flags=node.flags | NodeFlags.DATA,
            tx_count=len(block.transactions),
            sequence=self._state.next_sequence() if linked else UNLINKED,
        )
        self._state.add_beside(node, block.header, block)
        if linked:
            self._link_descendants(node)

    def _link_descendants(self, node: Node) -> None:
        waiting = [node]
        for each in waiting:
            ready = [n for n in self._state.tree.children(each.hash) if n.has_data]
            linked = [replace(n, sequence=self._state.next_sequence()) for n in ready]
            self._state.change_beside(linked)
            waiting += linked

    def _connect(self, block: Block, facts: ParentFacts | None, moves: Moves) -> BlockDelta:
        try:
            delta = self._judge(block, facts)
        except InvalidBlock as fault:
            moves.verdicts[block.hash] = fault.reason
            raise
        self._state.connect(block, delta)
        moves.verdicts[block.hash] = None
        moves.connected.append(block)
        return delta

    def _judge(self, block: Block, facts: ParentFacts | None) -> BlockDelta:
        state, params, now_s = self._state, self._params, block.header.time
        connect = partial(connect_block, view=state, chain=state, params=params, facts=facts)
        # The second time everything, also what was checked when the block was accepted.
        whole = partial(
            validate_block, view=state, chain=state, params=params, now_s=now_s, facts=facts
        )
        return self._validator.judge(block, params, connect, again=whole)

    def _disconnect(self, moves: Moves, flags: NodeFlags, changed: Iterable[Node] = ()) -> None:
        block = Block.decode(self._state.block_bytes(self._state.tip_height), self._params)
        keep = flags | NodeFlags.DATA | NodeFlags.VALIDATED
        self._state.disconnect(keep=keep, changed=changed)
        moves.disconnected.append(block)

    def _fail(self, node: Node) -> None:
        """Mark a block as failed and all on it as standing on a failed one."""
        current = self._state.tree.get(node.hash) or node
        above = self._state.tree.descendants(node.hash)
        marked = [_marked(each, NodeFlags.FAILED_BELOW) for each in above if not each.has_failed]
        self._state.change_beside([_marked(current, NodeFlags.FAILED), *marked])


def _marked(node: Node, failure: NodeFlags) -> Node:
    return replace(node, flags=node.flags & ~ANY_FAILURE | failure)
