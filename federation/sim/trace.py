"""Messages and events as lines that a person can read.

Source: consensus:10.
"""

from typing import Any

from federation.consensus.encoding import NIL
from federation.consensus.messages import (
    Answer,
    Evidence,
    GetBlock,
    GetFinal,
    RollCall,
    Status,
)
from federation.consensus.votes import (
    BlockMessage,
    BlockSignature,
    Certificate,
    Proposal,
    Vote,
    VoteType,
)
from federation.sim.final import FinalMessage, decode_final


def name(block_hash: bytes) -> str:
    """A block's short name."""
    return "nil" if block_hash == NIL else block_hash[:3].hex()


def describe(message: Any) -> str:
    """A message in a few words: kind, height/round, value."""
    match message:
        case Vote():
            cited = f" (POL of {message.valid_round})" if message.valid_round >= 0 else ""
            what = f"{message.type.name} {message.height}/{message.round}"
            return f"{what} {name(message.block_hash)} by #{message.member}{cited}"
        case Proposal(vote, _):
            return describe(vote)
        case Certificate():
            kind = "POL" if message.type is VoteType.PREVOTE else "COMMIT"
            voters = ",".join(f"#{member}" for member, _, _ in message.votes)
            at = f"{message.height}/{message.round}"
            return f"{kind} {at} {name(message.block_hash)} of {voters}"
        case BlockMessage():
            return f"BLOCK {message.height} {name(message.block_hash)}"
        case BlockSignature():
            return f"BLOCKSIG {message.height} {name(message.block_hash)} by #{message.member}"
        case FinalMessage(height, payload):
            block = decode_final(payload)
            return f"FINAL {height} {name(block.hash) if block else 'malformed'}"
        case Status():
            return f"STATUS {message.height}/{message.round} step {message.step}"
        case RollCall():
            return "ROLLCALL"
        case Answer():
            mode = " abstaining" if message.abstaining else ""
            return f"ANSWER known {message.known}{mode}"
        case Evidence():
            return f"EVIDENCE {message.kind.name}"
        case GetFinal(from_height, count):
            return f"GET_FINAL {from_height}+{count}"
        case GetBlock(height, block_hash):
            return f"GET_BLOCK {height} {name(block_hash)}"
        case bytes():
            return f"{len(message)} bytes of no message"
        case _:
            return type(message).__name__


class Trace:
    """Lines of a run, kept only when somebody wants to read them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, now_ms: int, text: str) -> None:
        """Something happened."""
        self.lines.append(f"{now_ms:>7} {text}")

    def sent(self, now_ms: int, source: str, target: int, message: Any, fate: str) -> None:
        """A message was put on a link."""
        tail = f" [{fate}]" if fate else ""
        self.lines.append(f"{now_ms:>7} {source} -> m{target}: {describe(message)}{tail}")


def readable(lines: list[str], limit: int) -> list[str]:
    """The last lines without the chatter of gossip."""
    quiet = ("STATUS", "GET_", "ROLLCALL")
    told = [line for line in lines if " <- " not in line]
    kept = [line for line in told if not any(f": {word}" in line for word in quiet)]
    return kept[-limit:]
