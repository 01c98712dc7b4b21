"""Peg-outs that the mempool refuses: those whose authorisation the next block would not accept.

Source: elements/peg.md 5.2.
"""

from collections.abc import Sequence

from sidechain.errors import InvalidTransaction
from sidechain.params import ChainParams
from sidechain.primitives.transaction import Transaction
from sidechain.validation.pegouts import check_pegout_authorisation

PakList = Sequence[tuple[bytes, bytes]]
"""Offline and online key of every entry."""

_OP_RETURN = 0x6A


def check_pegouts(tx: Transaction, pak_list: PakList, params: ChainParams) -> None:
    """Ask every peg-out of the pegged asset for a proof.

    Args:
        pak_list: in force for the next block; with an empty one nobody may peg out.
    Raises:
        InvalidTransaction: "invalid-pegout-proof", without a detail, as elementsd says it.
    """
    for output in tx.outputs:
        script = output.script
        if not script or script[0] != _OP_RETURN:
            continue
        try:
            check_pegout_authorisation(output, pak_list, params)
        except InvalidTransaction as error:
            raise InvalidTransaction(error.reason) from error
