"""Blocks that a lying proposer makes: each breaks a rule that honest voters have to notice.

Source: peg:V1-V8, peg:C2-C8, peg:3.3.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from federation.sim.peg.bitcoin import Bitcoin
from federation.sim.peg.member import Signer
from federation.sim.peg.sidechain import Sidechain
from peg.commitments import Commitment
from peg.history import PegHistory
from peg.records import (
    CancelRecord,
    ExcludeRecord,
    OpenRecord,
    PauseRecord,
    Record,
    ReopenRecord,
    ResumeRecord,
    record_script,
)
from peg.state import PegView
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint, Transaction

KINDS: Final = (
    "shallow", "stale", "branch", "height", "reset", "claim", "claim", "record", "pause"
)  # fmt: skip
CLAIM_SCRIPT: Final = b"\x00\x14" + bytes(20)


def lying_block(
    rng: random.Random,
    *,
    bitcoin: Bitcoin,
    side: Sidechain,
    history: PegHistory,
    view: PegView | None,
    signer: Signer,
    honest: Sequence[bytes] | None,
    scripts: Sequence[bytes],
) -> Block | None:
    """A block that breaks one rule; None when this lie cannot be told now.

    Args:
        honest: the coinbase scripts of a minimal block.
        scripts: claim scripts of users.
    """
    previous = history.previous_commitment
    if previous is None or view is None or honest is None:
        return None
    kind = rng.choice(KINDS)
    if kind == "claim":
        claim = _claim(rng, bitcoin, side, scripts)
        return None if claim is None else side.block([previous.repeated().script()], [claim])
    if kind in ("record", "pause"):
        record = _pause(history, signer) if kind == "pause" else _record(rng, history, view)
        return None if record is None else side.block([*honest, record_script(record)])
    commitment = _commitment(kind, rng, bitcoin, previous)
    return None if commitment is None else side.block([commitment.script()])


def _commitment(
    kind: str, rng: random.Random, bitcoin: Bitcoin, previous: Commitment
) -> Commitment | None:
    chain = bitcoin.chain()
    match kind:
        case "shallow":
            at = chain[-1].info
        case "stale":
            at = rng.choice(chain[:-2]).info
        case "branch":
            off = [
                b.info for b in bitcoin.blocks.values() if not bitcoin.view.is_active(b.info.hash)
            ]
            if not off:
                return None
            at = rng.choice(off)
        case "height":
            at = replace(chain[-3].info, height=chain[-3].info.height - 1)
        case _:
            return replace(previous, reset=True)
    return Commitment(
        reset=rng.random() < 0.2,
        height=at.height,
        block_hash=at.hash,
        feerate_sats_per_kvb=previous.feerate_sats_per_kvb,
    )


def _claim(
    rng: random.Random, bitcoin: Bitcoin, side: Sidechain, scripts: Sequence[bytes]
) -> Transaction | None:
    """A claim of any output that pays the federation: young, claimed, spent, or its own change."""
    found = [
        (mined, tx)
        for mined in bitcoin.blocks.values()
        for tx in mined.transactions[1:]
        if tx.outputs[0][1][:2] == b"\x00\x20"
    ]
    if not found:
        return None
    mined, tx = rng.choice(found)
    program = tx.outputs[0][1]
    known = [script for script in scripts if side.deposit_script(script) == program]
    claim_script = known[0] if known else CLAIM_SCRIPT
    return side.claim(bitcoin, tx.stripped, mined.info.hash, claim_script)


def _pause(history: PegHistory, signer: Signer) -> Record:
    """A PAUSE of its own, whether it may or not."""
    unsigned = PauseRecord(
        member=signer.member,
        deposits=False,
        sequence=history.governance.pause_sequence(signer.member) + 1,
        until=history.clock + history.parameters.pause_max,
        signature=b"",
    )
    message = signer.genesis + unsigned.unsigned()
    return replace(unsigned, signature=signer.sign_message("fedpeg/pause", message))


def _record(rng: random.Random, history: PegHistory, view: PegView) -> Record | None:
    """A record that no operator approved, perhaps."""
    batch = view.open_batch
    queue = [burn.burn_id for burn in view.queue]
    coins = [coin.outpoint for coin in view.coins] or [OutPoint(bytes(32), 0)]
    found: list[Record] = [
        ResumeRecord(),
        OpenRecord(0, rng.choice(coins)),
        ReopenRecord(0, coins[0].txid, rng.choice(coins)),
    ]
    if batch is not None:
        found.append(CancelRecord(0, batch.anchor))
    if queue:
        found.append(ExcludeRecord(rng.choice(queue)))
    return rng.choice(found)
