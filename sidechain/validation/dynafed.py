"""Federation parameters by height: what a block must publish, and which deposits still count.

Source: elements/blocks.md 8, elements/peg.md 4.
"""

from collections import Counter
from dataclasses import replace
from typing import NoReturn

from sidechain.crypto.hashes import ZERO_HASH, sha256
from sidechain.crypto.keys import is_public_key
from sidechain.errors import InvalidBlock
from sidechain.params import ALWAYS_ACTIVE, ChainParams
from sidechain.primitives.block import COMPACT_KIND, FULL_KIND, BlockHeader, ParamEntry
from sidechain.script.opcodes import OP_DEPTH
from sidechain.script.script import p2sh, p2wsh, witness_program
from sidechain.validation.deployments import dynafed_active
from sidechain.validation.headers import ExtendedChain, HeaderChain, median_time_past
from sidechain.validation.pegins import FedpegPair

__all__ = [
    "ExtendedChain",
    "HeaderChain",
    "check_dynafed_header",
    "current_entry",
    "fedpegscript_may_change",
    "full_current",
    "median_time_past",
    "nested_program",
    "pak_list",
    "valid_fedpegscripts",
]

MAX_PAK_ENTRIES = 255

_FORBIDDEN_VERSION_BITS = sum(1 << bit for bit in (23, 24, 25, 26))


def full_current(chain: HeaderChain, prev_height: int, params: ChainParams) -> ParamEntry:
    """The full parameters in force for the block after `prev_height`.

    Source: elements/blocks.md 8.2.
    """
    height = prev_height + 1
    length = params.dynamic_epoch_length
    if height % length == 0:
        winner = _winning_proposal(chain, height, length)
        if winner is not None:
            return winner
    epoch_start = height - height % length - (length if height % length == 0 else 0)
    if epoch_start == 0 and height > 1 and params.dynafed.start == ALWAYS_ACTIVE:
        # Genesis has the legacy form; the first block holds the first full entry.
        epoch_start = 1
    start = chain.header(epoch_start)
    if start.is_dynafed:
        return start.current
    return _legacy_parameters(start.challenge, params)


def current_entry(chain: HeaderChain, prev_height: int, params: ChainParams) -> ParamEntry:
    """What the block after `prev_height` must publish as its current parameters.

    The full entry at an epoch's start and right after a header of the legacy form, otherwise the
    compact one.

    Source: elements/blocks.md 8.3.
    """
    full = full_current(chain, prev_height, params)
    height = prev_height + 1
    starts = height % params.dynamic_epoch_length == 0
    if starts or not chain.header(prev_height).is_dynafed:
        return full
    return full.compact()


def check_dynafed_header(header: BlockHeader, chain: HeaderChain, params: ChainParams) -> None:
    """Parameter rules of a header that extends `chain`; none before dynamic federations.

    Raises:
        InvalidBlock: "invalid-dyna-fed".
    Source: elements/blocks.md 8.4.
    """
    if not dynafed_active(chain, chain.tip_height, params):
        return
    if header.current.is_null:
        _refuse("dynamic block headers must have non-empty current signblockscript field")
    if header.version & _FORBIDDEN_VERSION_BITS:
        _refuse("dynamic block header has unknown HF extension bits set")
    expected = current_entry(chain, chain.tip_height, params)
    # The elided root is not compared: so Elements does, and blocks with a wrong one exist.
    if replace(header.current, elided_root=ZERO_HASH) != replace(expected, elided_root=ZERO_HASH):
        _refuse("dynamic block header's current parameters do not match expected")
    if not header.proposed.is_null:
        _check_proposal(header.proposed, full_current(chain, chain.tip_height, params), params)


def valid_fedpegscripts(
    chain: HeaderChain, tip_height: int, params: ChainParams, next_block: bool
) -> tuple[FedpegPair, ...]:
    """Fedpegscripts that deposits may have been made to, newest first.

    Args:
        tip_height: the block they hold for, which `chain` must contain, or with `next_block`
            the tip under the block they hold for.
    Source: elements/peg.md 4.
    """
    length = params.dynamic_epoch_length
    pairs: list[FedpegPair] = []
    if next_block and tip_height % length == length - 1:
        entry = full_current(chain, tip_height, params)
        pairs.append(FedpegPair(entry.fedpeg_program, entry.fedpegscript))
    for epoch in range(params.total_valid_epochs):
        start = tip_height - tip_height % length - epoch * length
        if start >= 0:
            pairs.append(_pair_at(chain.header(start), params))
    return tuple(pairs[: params.total_valid_epochs])


def fedpegscript_may_change(chain: HeaderChain, tip_height: int, params: ChainParams) -> bool:
    """Whether the next epoch may bring another fedpegscript than the block after the tip has.

    So it is when a proposal of another one has won in that block's epoch, or still can.

    Source: elements/blocks.md 8, peg:4 ("Addresses").
    """
    length = params.dynamic_epoch_length
    start = tip_height + 1 - (tip_height + 1) % length
    proposals = [chain.header(height).proposed for height in range(start, tip_height + 1)]
    roots = [proposal.root() for proposal in proposals]
    votes = Counter(root for root in roots if root != ZERO_HASH)
    full = full_current(chain, tip_height, params)
    left = length - len(proposals)
    return any(
        (proposal.fedpeg_program, proposal.fedpegscript) != (full.fedpeg_program, full.fedpegscript)
        and votes[root] + left >= length * 4 // 5
        for proposal, root in zip(proposals, roots, strict=True)
        if root != ZERO_HASH
    )


def nested_program(fedpegscript: bytes) -> bytes:
    """The P2SH-P2WSH program of a fedpegscript."""
    return p2sh(p2wsh(fedpegscript))


def pak_list(entry: ParamEntry) -> tuple[tuple[bytes, bytes], ...]:
    """Offline and online keys of the extension space; empty when any entry is unusable.

    Source: elements/peg.md 5.2.
    """
    if len(entry.extension_space) > MAX_PAK_ENTRIES:
        return ()
    if not all(_is_pak_entry(item) for item in entry.extension_space):
        return ()
    return tuple((item[:33], item[33:]) for item in entry.extension_space)


def _winning_proposal(chain: HeaderChain, height: int, length: int) -> ParamEntry | None:
    proposals = [chain.header(h).proposed for h in range(height - 1, height - length - 1, -1)]
    roots = [proposal.root() for proposal in proposals]
    votes = Counter(root for root in roots if root != ZERO_HASH)
    needed = length * 4 // 5
    for proposal, root in zip(proposals, roots, strict=True):
        if votes[root] >= needed and root != ZERO_HASH:
            return proposal
    return None


def _legacy_parameters(challenge: bytes, params: ChainParams) -> ParamEntry:
    script = params.fedpegscript
    return ParamEntry(
        kind=FULL_KIND,
        signblockscript=p2wsh(challenge),
        witness_limit=params.max_block_sig_size,
        fedpeg_program=p2wsh(script) if params.start_p2wsh_script else nested_program(script),
        fedpegscript=script,
        extension_space=params.pak,
    )


def _pair_at(start: BlockHeader, params: ChainParams) -> FedpegPair:
    if start.is_dynafed:
        return FedpegPair(start.current.fedpeg_program, start.current.fedpegscript)
    # Also with start_p2wsh_script: genesis stands for the nested kind in this list.
    return FedpegPair(nested_program(params.fedpegscript), params.fedpegscript)


def _check_proposal(proposed: ParamEntry, full: ParamEntry, params: ChainParams) -> None:
    if proposed.kind == COMPACT_KIND:
        # A compact entry shows no fedpeg program, so it always differs in one that is no witness
        # program; saying it here keeps the rules below about full entries only.
        _refuse("proposed fedpeg program must be native segwit scriptPubkey")
    changed_script = proposed.signblockscript != full.signblockscript
    if changed_script and witness_program(proposed.signblockscript) is None:
        _refuse("proposed signblockscript must be native segwit scriptPubkey")
    fedpeg = (proposed.fedpeg_program, proposed.fedpegscript)
    if fedpeg != (full.fedpeg_program, full.fedpegscript):
        _check_proposed_fedpeg(proposed)
    if params.enforce_pak and proposed.extension_space != full.extension_space:
        _check_proposed_pak(proposed.extension_space)


def _check_proposed_fedpeg(proposed: ParamEntry) -> None:
    program = witness_program(proposed.fedpeg_program)
    if program is None:
        _refuse("proposed fedpeg program must be native segwit scriptPubkey")
    if program[0] != 0:
        return
    if program[1] != sha256(proposed.fedpegscript):
        _refuse("proposed v0 segwit fedpegscript must match proposed fedpeg witness program")
    if proposed.fedpegscript.startswith(bytes((OP_DEPTH,))):
        _refuse("Proposed fedpegscript starts with OP_DEPTH, which is illegal")


def _check_proposed_pak(entries: tuple[bytes, ...]) -> None:
    if len(entries) > MAX_PAK_ENTRIES or not all(_is_pak_entry(item) for item in entries):
        _refuse("Extension space is not list of valid PAK entries")


def _is_pak_entry(item: bytes) -> bool:
    return len(item) == 66 and is_public_key(item[:33]) and is_public_key(item[33:])


def _refuse(text: str) -> NoReturn:
    raise InvalidBlock("invalid-dyna-fed", text)
