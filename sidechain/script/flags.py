"""Which rules a script is run under, and in which form its signatures come.

Source: elements/script.md 1.
"""

from enum import Enum, Flag, auto


class SigVersion(Enum):
    """How signatures of a script commit to the transaction."""

    BASE = "legacy"
    WITNESS_V0 = "segwit v0"
    TAPROOT = "taproot key path"
    TAPSCRIPT = "tapscript"


class Flags(Flag):
    """One bit per rule that can be switched; names as in the reference project's tests."""

    NONE = 0
    P2SH = auto()
    STRICTENC = auto()
    DERSIG = auto()
    LOW_S = auto()
    NULLDUMMY = auto()
    SIGPUSHONLY = auto()
    MINIMALDATA = auto()
    DISCOURAGE_UPGRADABLE_NOPS = auto()
    CLEANSTACK = auto()
    CHECKLOCKTIMEVERIFY = auto()
    CHECKSEQUENCEVERIFY = auto()
    WITNESS = auto()
    DISCOURAGE_UPGRADABLE_WITNESS_PROGRAM = auto()
    MINIMALIF = auto()
    NULLFAIL = auto()
    WITNESS_PUBKEYTYPE = auto()
    CONST_SCRIPTCODE = auto()
    TAPROOT = auto()
    SIGHASH_RANGEPROOF = auto()
    NO_SIGHASH_BYTE = auto()
    DISCOURAGE_UPGRADABLE_TAPROOT_VERSION = auto()
    DISCOURAGE_OP_SUCCESS = auto()
    DISCOURAGE_UPGRADABLE_PUBKEYTYPE = auto()
    SIMPLICITY = auto()


CONSENSUS_FLAGS = (
    Flags.P2SH
    | Flags.WITNESS
    | Flags.TAPROOT
    | Flags.DERSIG
    | Flags.CHECKLOCKTIMEVERIFY
    | Flags.CHECKSEQUENCEVERIFY
    | Flags.NULLDUMMY
    | Flags.SIGHASH_RANGEPROOF
)
"""What a block on a chain with dynamic federations from block 1 must obey.

A block whose height or deployments switch a rule off obeys fewer: `SIGHASH_RANGEPROOF` belongs to
the dynamic-federation deployment, `CHECKSEQUENCEVERIFY` and others to heights.
"""

POLICY_FLAGS = (
    Flags.STRICTENC
    | Flags.MINIMALDATA
    | Flags.DISCOURAGE_UPGRADABLE_NOPS
    | Flags.CLEANSTACK
    | Flags.MINIMALIF
    | Flags.NULLFAIL
    | Flags.LOW_S
    | Flags.DISCOURAGE_UPGRADABLE_WITNESS_PROGRAM
    | Flags.WITNESS_PUBKEYTYPE
    | Flags.CONST_SCRIPTCODE
    | Flags.DISCOURAGE_UPGRADABLE_TAPROOT_VERSION
    | Flags.DISCOURAGE_OP_SUCCESS
    | Flags.DISCOURAGE_UPGRADABLE_PUBKEYTYPE
    | Flags.SIMPLICITY
)
"""What only the mempool asks. A fault that is gone without these is called "non-mandatory"."""

STANDARD_FLAGS = CONSENSUS_FLAGS | POLICY_FLAGS
"""What the mempool asks in all."""

BLOCK_SIGNATURE_FLAGS = (
    Flags.P2SH
    | Flags.STRICTENC
    | Flags.NULLDUMMY
    | Flags.CLEANSTACK
    | Flags.MINIMALDATA
    | Flags.SIGPUSHONLY
    | Flags.LOW_S
    | Flags.WITNESS
)
"""What the signature of a block obeys. Source: elements/blocks.md 3."""
