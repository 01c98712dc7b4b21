"""Tables for people: the audit, the blocks with their signers, what wallets hold and did."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from federation.cli_session import show_btc
from peg.bitcoind import amount_text

_AUDIT_LINES = (
    ("circulating_sats", "coins in circulation"),
    ("unpaid_sats", "peg-outs not paid yet"),
    ("pending_fee_sats", "fees of those"),
    ("suspense_sats", "burns that cannot be paid"),
    ("liabilities_sats", "liabilities"),
    ("pool_sats", "fee pool"),
    ("reserve_sats", "reserves on Bitcoin"),
    ("difference_sats", "difference"),
)


def audit_text(found: Mapping[str, Any]) -> str:
    """The audit line by line: reserves are liabilities and pool, counted from both chains."""
    lines = [f"{text:<26} {amount_text(int(found[name])):>18}" for name, text in _AUDIT_LINES]
    lines += [f"halted: {halt}" for halt in found["halts"]]
    place = f"sidechain block {found['height']}, Bitcoin block {found['committed_height']}"
    verdict = "equal to the satoshi" if is_exact(found) else "THE TWO SIDES DIFFER"
    return "\n".join([*lines, f"{verdict} at {place}"])


def report_text(report: Mapping[str, Any], signers: Sequence[str]) -> str:
    """A reserves report line by line, with what it cannot show."""
    lines = [
        f"{text:<26} {amount_text(int(report[name])):>18}"
        for name, text in _AUDIT_LINES
        if name in report
    ]
    lines += [
        f"{text:<26} {amount_text(int(report[name])):>18}"
        for name, text in (
            ("vanished_sats", "claimed, but gone again"),
            ("forced_fee_sats", "fees beyond the pool"),
        )
        if report[name]
    ]
    left = report.get("oldest_blocks_left")
    oldest = (
        "" if left is None else f", the oldest can be spent by the federation for {left} blocks"
    )
    return "\n".join(
        [
            f"sidechain block {report['height']} ({report['hash']})",
            f"Bitcoin block {report['committed_height']} ({report['committed_hash']})",
            *lines,
            f"{report['coins']} coins{oldest}",
            f"signed by {', '.join(signers)}",
            f"limit: {report['limit']}",
        ]
    )


def peg_notes(peg: Mapping[str, Any]) -> list[str]:
    """What stands still in a member's peg, and what its operator approved (X1-X7, 7.3)."""
    notes: list[str] = []
    pause = peg.get("pause") or {}
    if pause.get("paused"):
        who = ", ".join(f"m{member}" for member in pause["members"])
        notes.append(f"payouts are paused by {who} until Bitcoin block {pause['until_clock']}")
    for heard in pause.get("heard", ()):
        notes.append(f"obeys a pause of m{heard['member']} that is in no block yet")
    if pause.get("deposits_paused"):
        notes.append(f"deposits are paused until Bitcoin block {pause['deposits_until_clock']}")
    notes += [f"payouts are halted: {halt}" for halt in peg.get("halts", ())]
    notes += [f"{alarm}: {reason}" for alarm, reason in (peg.get("alarms") or {}).items()]
    notes += list(peg.get("warnings", ()))
    if peg.get("approvals"):
        notes.append(f"{peg['approvals']} approvals wait: `fedpeg approve list` shows them")
    return notes


def bounds_text(found: Mapping[str, Any]) -> str:
    """The loss bound: how it comes about, then the most for each stretch of time."""
    lines = [
        f"at most {show_btc(cap['cap_sats'])} in any {cap['window']} Bitcoin blocks: the larger of "
        f"{show_btc(cap['abs_sats'])} and {cap['pct_bp'] / 100:g} % of "
        f"{show_btc(max(found['outstanding_sats'], 0))}"
        for cap in found["caps"]
    ]
    lines += [
        f"a payout is at most {show_btc(found['payout_cap_sats'])}; from "
        f"{show_btc(found['large_sats'])} on it waits {found['large_delay']} Bitcoin blocks",
        "whatever is minted, at most this leaves before somebody pauses:",
    ]
    lines += [
        f"{'in ' + str(each['clock_units']) + ' Bitcoin blocks':>24} "
        f"{amount_text(int(each['loss_sats'])):>18}"
        for each in found["within"]
    ]
    if found["reserve_sats"] is not None:
        lines.append(f"{'never more than it holds':>24} {amount_text(found['reserve_sats']):>18}")
    lines += [
        f"released and not paid yet, which CANCEL recalls: "
        f"{show_btc(found['released_unpaid_sats'])}",
        f"f_s lying members can pause {found['liars_pause_bp'] / 100:g} % of the time; one batch "
        f"pays at most {show_btc(found['batch_fee_max_sats'])} of fees",
        "RELEASE records of k operators are outside these limits, and counted in them",
    ]
    return "\n".join(lines)


def is_exact(found: Mapping[str, Any]) -> bool:
    """Whether the book's two computations agree and the reserves cover the liabilities."""
    return bool(found["equal"]) and bool(found["solvent"]) and not found["halts"]


def blocks_table(
    blocks: Sequence[Mapping[str, Any]], names: Sequence[str], *, signers: bool
) -> str:
    """One line a block; with signers a column for each member, x where it signed."""
    if not blocks:
        return "no blocks yet"
    if not signers:
        return "\n".join(f"{b['height']:>7}  {b['hash']}" for b in blocks)
    head = f"{'height':>7}  {'round':>5}  {'proposer':<8}  {'  '.join(f'{n:>3}' for n in names)}"
    lines = [head]
    for block in blocks:
        signed = set(block["signers"])
        marks = "  ".join(f"{'x' if i in signed else '.':>3}" for i in range(len(names)))
        proposer = block.get("proposer")
        named = names[proposer] if isinstance(proposer, int) else "?"
        round_text = "?" if block.get("round") is None else block["round"]
        lines.append(f"{block['height']:>7}  {round_text:>5}  {named:<8}  {marks}")
    return "\n".join(lines)


def balance_text(found: Mapping[str, Any]) -> str:
    """What a wallet can spend, bitcoin first, one asset a line; then what it cannot open."""
    lines: list[str] = []
    for held in found["assets"]:
        pending = held["pending_in_sats"]
        more = f" (and {show_btc(pending)} coming in)" if pending else ""
        name = f" {held['label'] or held['asset']}" if lines else ""
        lines.append(f"{show_btc(held['available_sats'])}{more}{name}")
    if found["unknown_outputs"]:
        lines.append(f"{found['unknown_outputs']} outputs that this wallet cannot open")
    return "\n".join(lines)


def history_line(entry: Mapping[str, Any]) -> str:
    """One transaction of a wallet: its bitcoin, and what it moved of other assets."""
    time = datetime.fromtimestamp(entry["time"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    place = "unconfirmed" if entry["height"] is None else f"block {entry['height']}"
    amount = show_btc(entry["amount_sats"])
    others = "".join(
        f"  {show_btc(moved['amount_sats'])} {moved['label'] or moved['asset']}"
        for moved in entry["assets"]
        if moved["asset"] in entry.get("other_assets", {})
    )
    line = f"{time}  {entry['category']:<10} {amount:>14}  {place:<12} {entry['txid']}"
    return line + others
