"""Burns that the peg would never pay are kept out of mempools, so that nobody loses by mistake.

Source: peg:3.4 ("Wallets and mempools MUST refuse to create them").
"""

from collections.abc import Collection

from peg.limits import BurnCode, burn_code
from peg.parameters import PegParameters
from sidechain.errors import InvalidTransaction
from sidechain.params import ChainParams
from sidechain.primitives.transaction import Transaction
from sidechain.script.script import p2wsh
from sidechain.validation.pegouts import parse_pegout

REASON = "bad-pegout"


def check_relayed_burns(
    tx: Transaction,
    *,
    chain: ChainParams,
    parameters: PegParameters,
    fed_programs: Collection[bytes],
) -> None:
    """Refuse a transaction with a burn that would not be paid as it is.

    Raises:
        InvalidTransaction: "bad-pegout" with the eligibility code, or OVER_PAYOUT_CAP: split it.
    """
    for output in tx.outputs:
        pegout = parse_pegout(output.script)
        if pegout is None or pegout[0] != chain.parent_genesis_hash:
            continue
        code = burn_code(
            output,
            pegout[1],
            pegged_asset=chain.pegged_asset,
            min_pegout_sats=parameters.min_pegout_sats,
            fed_programs=fed_programs,
            in_coinbase=False,
        )
        if code is not BurnCode.OK:
            raise InvalidTransaction(REASON, code)
        if (output.value_sats or 0) > parameters.payout_cap_sats:
            raise InvalidTransaction(REASON, "OVER_PAYOUT_CAP")


class BurnRelay:
    """The check of one member's mempool, by the values in force for the next block."""

    def __init__(
        self, *, chain: ChainParams, parameters: PegParameters, fed_programs: Collection[bytes]
    ) -> None:
        """Start with the values of the federation file; whoever follows the chain sets later ones.

        Args:
            fed_programs: FED of every federation past and present.
        """
        self.parameters = parameters
        self._chain = chain
        self._programs = fed_programs

    @classmethod
    def of(cls, chain: ChainParams, parameters: PegParameters) -> "BurnRelay":
        """For a chain whose fedpegscript is the one of all its federations."""
        programs = (p2wsh(chain.fedpegscript),)
        return cls(chain=chain, parameters=parameters, fed_programs=programs)

    def check(self, tx: Transaction) -> None:
        """Refuse a transaction with a burn that would not be paid; raises InvalidTransaction."""
        check_relayed_burns(
            tx, chain=self._chain, parameters=self.parameters, fed_programs=self._programs
        )

    def is_payable(self, tx: Transaction) -> bool:
        """Whether all burns of a transaction would be paid as they are."""
        try:
            self.check(tx)
        except InvalidTransaction:
            return False
        return True
