"""Somebody with one key and no wallet process: a deposit, and claims of it, also wrong ones."""

from dataclasses import dataclass, replace

from federation.config import FederationFile
from sidechain.crypto.hashes import hash160, sha256
from sidechain.crypto.keys import public_key
from sidechain.params import BITCOIN_REGTEST
from sidechain.primitives.address import Address, encode_address
from sidechain.primitives.encoding import le64
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.script import p2wsh
from sidechain.validation.pegins import deposit_script
from sidechain.wallet.claim import ClaimableDeposit, build_claim, sign_claim
from sidechain.wallet.keys import SecretKey
from tests.e2e.local import FAUCET, Local
from tests.e2e.rpc import Refused

RATE_SATS_PER_KVB = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a claim says instead of the truth; None is the truth."""

    value_sats: int | None = None
    asset: bytes | None = None
    parent_genesis: bytes | None = None
    claim_script: bytes | None = None
    proof: bytes | None = None
    items: int = 6


TRUTH = Changes()


class Claimant:
    """One deposit and the key that may claim it."""

    def __init__(self, local: Local, name: str, value_sats: int) -> None:
        self._local = local
        federation = FederationFile.load(
            local.data / "federation.json", allow_no_byzantine_safety=True
        )
        self._params = federation.chain_params()
        self._secret = sha256(f"{local.state['chain']} {name}".encode())
        self._script = b"\x00\x14" + hash160(public_key(self._secret))
        fedpegscript = federation.fedpegscript
        paid = deposit_script(p2wsh(fedpegscript), fedpegscript, self._script)
        self.address = encode_address(paid, BITCOIN_REGTEST)
        self.value_sats = value_sats
        amount = f"{value_sats / 100_000_000:.8f}"
        self.txid: str = local.bitcoind(FAUCET).call("sendtoaddress", self.address, amount)
        shown = local.bitcoind().call("getrawtransaction", self.txid, True)
        self.index = next(
            o["n"] for o in shown["vout"] if o["scriptPubKey"].get("address") == self.address
        )

    @property
    def outpoint(self) -> str:
        """txid:vout of the deposit."""
        return f"{self.txid}:{self.index}"

    def proof(self) -> bytes:
        """Bitcoin's proof of the deposit, in whatever block it is now."""
        return proof_of(self._local, self.txid)

    def claim(
        self, changes: Changes = TRUTH, *, fee_factor: int = 1, to_script: bytes | None = None
    ) -> str:
        """A signed claim, in hex; a higher fee factor makes another transaction of it."""
        place = OutPoint(bytes.fromhex(self.txid)[::-1], self.index)
        raw = bytes.fromhex(self._local.bitcoind().call("getrawtransaction", self.txid))
        deposit = ClaimableDeposit(
            outpoint=place,
            value_sats=self.value_sats,
            claim_script=self._script,
            parent_tx=parse_parent_tx(raw).stripped,
            proof=self.proof(),
        )
        built = build_claim(
            deposit,
            self._params,
            to=Address(to_script or self._script),
            rate_sats_per_kvb=RATE_SATS_PER_KVB * fee_factor,
            entropy=self._secret,
        )
        signed = sign_claim(built, SecretKey(self._secret), self._params)
        return _changed(signed, changes).serialize().hex()


def proof_of(local: Local, txid: str) -> bytes:
    """Bitcoin's proof of a transaction."""
    shown = local.bitcoind().call("getrawtransaction", txid, True)
    proof_hex: str = local.bitcoind().call("gettxoutproof", [txid], shown["blockhash"])
    return bytes.fromhex(proof_hex)


def refusal(local: Local, claim_hex: str) -> tuple[str, str]:
    """Why a member does not take a claim: reason of the test, text of the refusal to send."""
    verdict = local.ask("testmempoolaccept", [claim_hex])[0]
    assert verdict["allowed"] is False, verdict
    try:
        local.ask("sendrawtransaction", claim_hex)
    except Refused as refused:
        return verdict["reject-reason"], refused.message
    raise AssertionError("refused in the test and taken for real")


def _changed(claim: Transaction, changes: Changes) -> Transaction:
    witness = claim.input_witnesses[0]
    value, asset, genesis, script, parent_tx, proof = witness.pegin
    pegin = (
        value if changes.value_sats is None else le64(changes.value_sats),
        changes.asset or asset,
        changes.parent_genesis or genesis,
        changes.claim_script or script,
        parent_tx,
        changes.proof or proof,
    )[: changes.items]
    return Transaction.build(
        version=claim.version,
        inputs=claim.inputs,
        outputs=claim.outputs,
        locktime=claim.locktime,
        input_witnesses=(replace(witness, pegin=pegin),),
        output_witnesses=claim.output_witnesses,
    )
