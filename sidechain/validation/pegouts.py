"""Peg-out outputs: recognising them. To consensus they are ordinary burns.

Source: elements/peg.md 5.1.
"""

from sidechain.script.opcodes import OP_PUSHDATA4, OP_RETURN
from sidechain.script.script import iter_ops


def parse_pegout(script: bytes) -> tuple[bytes, bytes] | None:
    """Read `OP_RETURN <parent genesis hash> <parent script> [more pushes]`.

    The hash is not compared with any chain, and neither amount nor asset are looked at: who pays
    out must itself ask for an explicit amount of the pegged asset.

    Returns:
        Parent genesis hash (32 bytes, internal order) and the script to pay, or None.
    """
    ops = list(iter_ops(script))
    if len(ops) < 3 or ops[0].opcode != OP_RETURN:
        return None
    genesis, destination = ops[1].data, ops[2].data
    if genesis is None or len(genesis) != 32 or destination is None:
        return None
    if any(item.opcode > OP_PUSHDATA4 for item in ops[3:]):
        return None
    return genesis, destination
