"""The two chains of the simulator under the names that tests of the peg use."""

from federation.sim.peg.bitcoin import REGTEST_BITS, Bitcoin, p2wpkh_script, parent_tx
from federation.sim.peg.sidechain import (
    PARAMETER_HASH,
    Sidechain,
    federation,
    secret,
    sidechain_params,
)
from peg.parameters import LOCAL

EASY_PARAMETERS = LOCAL

__all__ = [
    "EASY_PARAMETERS",
    "PARAMETER_HASH",
    "REGTEST_BITS",
    "Bitcoin",
    "Sidechain",
    "federation",
    "p2wpkh_script",
    "parent_tx",
    "secret",
    "sidechain_params",
]
