"""Where a peg-in stands, why, and what can be done: one sentence each for every case.

Pure: records and answers in, words out.

Source: peg:4 (peg:C2-C10), peg:12.
"""

from dataclasses import dataclass

from federation.wallet.pegs import Pegin, Ripeness


@dataclass(frozen=True, slots=True)
class Standing:
    """A stage, why a peg-in does not go on by itself, and what its owner can do."""

    stage: str
    reason: str = ""
    next_step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What both chains said of one peg-in.

    Attributes:
        verdict: the last judgement of its deposit.
        reason: why the process could not go on at the last try.
        conflict: what took the place of an unconfirmed deposit.
        in_mempool: bitcoind's mempool holds the deposit.
        claim_sent: a member took a claim of it.
        missing: confirmations that a claim still needs, None when not known.
    """

    verdict: Ripeness | None
    reason: str
    conflict: str
    in_mempool: bool
    claim_sent: bool
    missing: int | None


def standing(pegin: Pegin, answers: Answers) -> Standing:
    """Where a peg-in stands now."""
    if pegin.final_height is not None:
        return Standing("final")
    deposit, verdict = pegin.deposit, answers.verdict
    if deposit is None:
        return Standing("address", answers.reason, _funding_step(pegin))
    if deposit.height is None:
        return _unconfirmed(pegin, answers)
    if verdict is not None and verdict.is_lost:
        return Standing("failed", verdict.reason, verdict.next_step)
    reason = answers.reason or ("" if verdict is None else verdict.reason)
    if answers.claim_sent:
        return Standing("claim_sent", reason, "wait for a sidechain block")
    if verdict is not None and verdict.is_ripe:
        return Standing("claimable", reason, _claim_step(pegin, reason))
    return Standing("confirming", reason, _waiting_step(answers.missing))


def _funding_step(pegin: Pegin) -> str:
    return "wait: the wallet pays it from the faucet" if pegin.is_own else "pay the address"


def _unconfirmed(pegin: Pegin, answers: Answers) -> Standing:
    if answers.conflict:
        return Standing(
            "conflicted",
            answers.conflict,
            "nothing was deposited by it; a replacement that pays the address is listed by itself",
        )
    if answers.in_mempool or pegin.is_own:
        step = "wait for a Bitcoin block, or have its sender raise the fee"
        return Standing("funded", answers.reason, step)
    return Standing(
        "funded",
        answers.reason or "the deposit is in no block, and bitcoind's mempool does not hold it",
        "send it again from the wallet that made it",
    )


def _claim_step(pegin: Pegin, reason: str) -> str:
    if pegin.target.covenant is not None:
        return "wait: the members claim it in turn"
    if "locked" in reason:
        return "unlock the wallet: it signs the claim"
    return "wait: the wallet claims it"


def _waiting_step(missing: int | None) -> str:
    if not missing:
        return "wait for the federation to commit to newer Bitcoin blocks"
    blocks = "block" if missing == 1 else "blocks"
    return f"wait for {missing} more Bitcoin {blocks}"
