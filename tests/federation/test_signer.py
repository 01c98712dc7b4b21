"""The signer's guard: what leaves it, and what it still knows after any crash (consensus:R1-R8)."""

import copy
import pickle
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from federation.config import FederationFile
from federation.consensus.messages import Answer
from federation.consensus.votes import NO_SIGNATURE, Certificate, Vote, VoteType
from federation.files import FileLayer
from federation.members import MemberSet
from federation.secret_key import SecretKey
from federation.signer import GuardStart, Signer, SignerFailed, SignerFiles, SignerRefused
from federation.signer_guard import Guard, GuardDamaged, load_guard, save_guard
from peg.fedscript import contract_tweak
from peg.lanes import Marker, batch_digest
from peg.payments import Payment, PaymentInput
from sidechain.crypto.hashes import tagged_hash
from sidechain.crypto.keys import (
    compact_to_der,
    ecdsa_verify,
    is_low_s,
    schnorr_verify,
    tweak_add_public,
)
from sidechain.errors import InvalidEncoding
from sidechain.primitives.transaction import OutPoint
from tests.federation.disks import (
    DISK_ERRORS,
    CountingDisk,
    Killed,
    PowerDisk,
    raise_errno,
)
from tests.federation.founded import found, member_folder

GENESIS, ROOT = b"\x11" * 32, b"\x22" * 32
A, B, NIL = b"\xaa" * 32, b"\xbb" * 32, bytes(32)
PROPOSAL, PREVOTE, PRECOMMIT = VoteType.PROPOSAL, VoteType.PREVOTE, VoteType.PRECOMMIT


class Home:
    """A founded federation; member 1's signer is the one under test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file: FederationFile = found(folder)
        self.members: MemberSet = self.file.member_set()
        self.secrets = [
            SecretKey(bytes.fromhex(member_folder(folder, i).block_key.read_text().strip()))
            for i in range(4)
        ]

    def files(self) -> SignerFiles:
        own = member_folder(self.folder, 1)
        return SignerFiles(block_key=own.block_key, peg_key=own.peg_key, guard=own.guard)

    def open(self, start: GuardStart = GuardStart.INTACT, layer: FileLayer | None = None) -> Signer:
        signer = Signer.open(
            self.files(),
            genesis=GENESIS,
            start=start,
            block_key=self.file.members[1].block_key,
            peg_key=self.file.members[1].peg_key,
            script=self.file.fed_script(),
            layer=layer,
        )
        signer.begin_height(self.members, ROOT)
        return signer

    def trial(self) -> Payment:
        """A trial spend of a FED output."""
        coin = PaymentInput(outpoint=OutPoint(A, 1), value_sats=20_000, claim_script=None)
        paid = (19_000, self.file.fed_script().program)
        return Payment(index=None, burn_ids=(), inputs=(coin,), outputs=(paid,))

    def batch(self) -> Payment:
        """Batch 7 of lane 0: the anchor and a deposit pay one burn."""
        anchor, burn = OutPoint(B, 0), b"\x01" * 36
        digest = batch_digest(GENESIS, lane=0, index=7, anchor=anchor, h_sel=30, burn_ids=[burn])
        marker = Marker(lane=0, count=1, h_sel=30, digest=digest)
        return Payment(
            index=7,
            burn_ids=(burn,),
            inputs=(
                PaymentInput(outpoint=anchor, value_sats=50_000, claim_script=None),
                PaymentInput(outpoint=OutPoint(A, 3), value_sats=70_000, claim_script=b"\x51"),
            ),
            outputs=(
                (60_000, self.file.fed_script().program),
                (0, marker.script()),
                (50_000, b"\x00\x14" + b"\x07" * 20),
            ),
        )

    def certificate(
        self, kind: VoteType, height: int, round_number: int, block: bytes, count: int = 3
    ) -> Certificate:
        votes = []
        for member in range(count):
            said = vote(kind, height, round_number, block, member=member)
            votes.append(
                (member, -1, self.secrets[member].sign_schnorr(said.digest(GENESIS, ROOT)))
            )
        return Certificate(
            type=kind,
            height=height,
            round=round_number,
            block_hash=block,
            votes=tuple(votes),
        )

    def pol(self, height: int, round_number: int, block: bytes) -> Certificate:
        return self.certificate(PREVOTE, height, round_number, block)

    def commit(self, height: int, round_number: int, block: bytes) -> Certificate:
        return self.certificate(PRECOMMIT, height, round_number, block)


def vote(
    kind: VoteType, height: int, round_number: int, block: bytes, cites: int = -1, member: int = 1
) -> Vote:
    return Vote(
        type=kind,
        height=height,
        round=round_number,
        valid_round=cites,
        block_hash=block,
        member=member,
        signature=NO_SIGNATURE,
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def refused(signer: Signer, said: Vote, certificate: Certificate | None = None) -> str:
    before = signer.counter, signer.position
    with pytest.raises(SignerRefused) as caught:
        signer.sign_vote(said, certificate)
    assert (signer.counter, signer.position) == before
    return caught.value.reason


def test_vote_when_signed_then_verifies_and_may_be_repeated(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    said = vote(PREVOTE, 5, 0, A)
    signed = signer.sign_vote(said, None)
    assert schnorr_verify(signer.block_key[1:], signed.signature, said.digest(GENESIS, ROOT))
    assert signer.sign_vote(said, None) == signed
    assert (signer.counter, signer.position) == (1, (5, 0, 2))
    signer.close()
    again = home.open()
    assert again.sign_vote(said, None) == signed
    assert again.counter == 1
    again.close()


def test_votes_when_not_strictly_increasing_then_refused(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    signer.sign_vote(vote(PREVOTE, 5, 2, A), None)
    for backward in (
        vote(PREVOTE, 5, 2, B),
        vote(PREVOTE, 5, 2, NIL),
        vote(PREVOTE, 5, 2, A, cites=1),
        vote(PROPOSAL, 5, 2, A),
        vote(PRECOMMIT, 5, 1, NIL),
        vote(PRECOMMIT, 4, 9, NIL),
    ):
        assert "R2" in refused(signer, backward)
    signer.sign_vote(vote(PRECOMMIT, 5, 2, NIL), None)
    signer.sign_vote(vote(PROPOSAL, 5, 3, B), None)
    signer.sign_vote(vote(PROPOSAL, 6, 0, B), None)
    signer.close()


def test_earlier_votes_of_the_height_when_asked_again_then_signed_again(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    said = [vote(kind, 5, r, NIL) for r in range(3) for kind in (PREVOTE, PRECOMMIT)]
    signed = [signer.sign_vote(one, None) for one in said]
    signer.close()
    signer = home.open()
    assert [signer.sign_vote(one, None) for one in said] == signed
    signer.sign_vote(vote(PREVOTE, 6, 0, NIL), None)
    assert "R2" in refused(signer, said[0])
    signer.close()


def test_precommit_when_without_its_pol_then_refused(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    said = vote(PRECOMMIT, 5, 1, A)
    bad = home.pol(5, 1, A)
    forged = replace(bad, votes=(bad.votes[0], bad.votes[1], (2, -1, bytes(64))))
    for certificate in (
        None,
        home.pol(5, 0, A),
        home.pol(4, 1, A),
        home.pol(5, 1, B),
        home.commit(5, 1, A),
        home.certificate(PREVOTE, 5, 1, A, count=2),
        home.certificate(PREVOTE, 5, 1, A, count=4),
        forged,
    ):
        refused(signer, said, certificate)
    signer.sign_vote(said, home.pol(5, 1, A))
    signer.close()


def test_lock_when_held_then_other_blocks_need_a_newer_pol(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    signer.sign_vote(vote(PRECOMMIT, 5, 3, A), home.pol(5, 3, A))
    signer.close()
    signer = home.open()
    assert "R3" in refused(signer, vote(PREVOTE, 5, 5, B))
    assert "R3" in refused(signer, vote(PREVOTE, 5, 5, B, cites=2), home.pol(5, 2, B))
    assert "R3" in refused(signer, vote(PREVOTE, 5, 5, B, cites=4))
    assert "R3" in refused(signer, vote(PREVOTE, 5, 5, B, cites=4), home.pol(5, 4, A))
    signer.sign_vote(vote(PREVOTE, 5, 4, A), None)
    signer.sign_vote(vote(PREVOTE, 5, 5, NIL), None)
    signer.sign_vote(vote(PRECOMMIT, 5, 5, NIL), None)
    assert "R3" in refused(signer, vote(PREVOTE, 5, 6, B))
    signer.sign_vote(vote(PREVOTE, 5, 6, B, cites=4), home.pol(5, 4, B))
    assert "R3" in refused(signer, vote(PREVOTE, 5, 7, B))
    signer.sign_vote(vote(PRECOMMIT, 5, 7, B), home.pol(5, 7, B))
    assert "R3" in refused(signer, vote(PREVOTE, 5, 8, A, cites=5), home.pol(5, 5, A))
    signer.sign_vote(vote(PREVOTE, 6, 0, A), None)
    signer.close()


def test_vote_when_of_another_member_or_without_height_then_refused(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    assert "not of this member" in refused(signer, vote(PREVOTE, 5, 0, A, member=2))
    signer.begin_height(MemberSet.of(tuple(m.block_key for m in home.file.members[2:]), 2), ROOT)
    assert "not of this member" in refused(signer, vote(PREVOTE, 5, 0, A))
    signer.close()


def test_block_hash_when_committed_then_signed_once_a_height(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    signed = signer.sign_block_hash(5, A, home.commit(5, 2, A))
    assert is_low_s(signed.signature) and (signed.height, signed.member) == (5, 1)
    assert ecdsa_verify(signer.block_key, compact_to_der(signed.signature), A)
    signer.close()
    signer = home.open()
    assert signer.sign_block_hash(5, A, home.commit(5, 2, A)) == signed
    for height, block in ((5, B), (4, A), (4, B)):
        with pytest.raises(SignerRefused, match="R4"):
            signer.sign_block_hash(height, block, home.commit(height, 3, block))
    assert "R4" in refused(signer, vote(PREVOTE, 5, 9, A))
    signer.sign_block_hash(6, B, home.commit(6, 0, B))
    assert signer.block_signature == (6, B)
    signer.close()


def test_block_hash_when_certificate_does_not_decide_it_then_refused(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    for certificate in (
        home.pol(5, 2, A),
        home.commit(5, 2, B),
        home.commit(6, 2, A),
        home.certificate(PRECOMMIT, 5, 2, A, count=2),
        replace(home.commit(5, 2, A), round=3),
    ):
        with pytest.raises(SignerRefused):
            signer.sign_block_hash(5, A, certificate)
    assert signer.block_signature is None
    signer.close()


def test_amnesiac_when_bound_is_set_then_no_vote_below_it(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    signer.refuse_below(9)
    signer.refuse_below(7)
    signer.close()
    signer = home.open()
    assert "C72" in refused(signer, vote(PREVOTE, 8, 0, NIL))
    signer.sign_block_hash(8, A, home.commit(8, 0, A))
    signer.sign_vote(vote(PREVOTE, 9, 0, NIL), None)
    signer.close()


def test_halted_when_set_then_nothing_but_answers_over_restarts(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    signer.halt()
    signer.close()
    signer = home.open()
    assert signer.halted
    for attempt in (
        lambda: signer.sign_vote(vote(PREVOTE, 5, 0, NIL), None),
        lambda: signer.sign_block_hash(5, A, home.commit(5, 0, A)),
        lambda: signer.sign_payment(home.trial()),
        lambda: signer.sign_peg_frame(20, b""),
        lambda: signer.sign_message("fedpeg/reserves", b""),
    ):
        with pytest.raises(SignerRefused, match="halted"):
            attempt()
    answer_of(signer)
    signer.unhalt()
    signer.sign_payment(home.trial())
    signer.close()


def answer_of(signer: Signer) -> Answer:
    empty = Answer(
        known=0,
        known_hash=NIL,
        abstaining=False,
        answerer_key=NIL,
        signature=NO_SIGNATURE,
        proof=None,
        seen=None,
    )
    return signer.sign_rollcall_answer(empty, b"\x05" * 32, b"\x06" * 32)


def test_answer_when_signed_then_verifies(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    answer = answer_of(signer)
    digest = answer.digest(GENESIS, b"\x05" * 32, b"\x06" * 32)
    assert answer.answerer_key == signer.block_key[1:]
    assert schnorr_verify(answer.answerer_key, answer.signature, digest)
    signer.close()


def test_messages_when_tag_belongs_to_agreement_then_refused(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    key = signer.block_key[1:]
    signature = signer.sign_message("fedpeg/pause", b"body")
    assert schnorr_verify(key, signature, tagged_hash("fedpeg/pause", b"body"))
    framed = tagged_hash("fedpeg/msg", GENESIS + b"\x14" + b"body")
    assert schnorr_verify(key, signer.sign_peg_frame(20, b"body"), framed)
    for tag in ("fedchain/vote/1", "fedchain/rollcall/1", "BIP0340/challenge", ""):
        with pytest.raises(SignerRefused):
            signer.sign_message(tag, b"")
    for kind in (1, 17, 24):
        with pytest.raises(SignerRefused):
            signer.sign_peg_frame(kind, b"")
    signer.close()


def test_payment_when_in_a_known_form_then_signed_under_the_coins_keys(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    script = home.file.fed_script()
    trial = home.trial()
    (signature,) = signer.sign_payment(trial)
    assert ecdsa_verify(signer.peg_key, signature, trial.digests(script)[0])
    batch = home.batch()
    first, second = signer.sign_payment(batch)
    assert ecdsa_verify(signer.peg_key, first, batch.digests(script)[0])
    tweaked = tweak_add_public(signer.peg_key, contract_tweak(signer.peg_key, b"\x51"))
    assert ecdsa_verify(tweaked, second, batch.digests(script)[1])
    signer.close()


def test_payment_when_in_no_known_form_then_refused(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    batch, trial = home.batch(), home.trial()
    fed = home.file.fed_script().program
    for wrong in (
        replace(trial, outputs=((19_000, b"\x51"),)),
        replace(trial, outputs=(*trial.outputs, (1, b"\x51"))),
        replace(trial, outputs=((20_001, fed),)),
        replace(trial, inputs=trial.inputs * 2),
        replace(trial, inputs=batch.inputs[1:]),
        replace(trial, inputs=()),
        replace(batch, index=None),
        replace(batch, index=8),
        replace(batch, burn_ids=(b"\x02" * 36,)),
        replace(batch, burn_ids=batch.burn_ids * 2, outputs=(*batch.outputs, batch.outputs[-1])),
        replace(batch, outputs=batch.outputs[:2]),
        replace(batch, outputs=(batch.outputs[1], batch.outputs[0], batch.outputs[2])),
        replace(batch, outputs=(batch.outputs[0], (1, batch.outputs[1][1]), batch.outputs[2])),
        replace(batch, inputs=batch.inputs[::-1]),
        replace(batch, inputs=batch.inputs[:1], outputs=((2**63, fed), *batch.outputs[1:])),
    ):
        with pytest.raises(SignerRefused):
            signer.sign_payment(wrong)
    signer.close()


def test_payment_when_its_bytes_are_damaged_then_never_another_payment(home: Home) -> None:
    data = home.batch().encode()
    assert Payment.decode(data) == home.batch()
    for size in range(len(data)):
        with pytest.raises(InvalidEncoding):
            Payment.decode(data[:size])
    with pytest.raises(InvalidEncoding):
        Payment.decode(data + b"\0")


# -- the guard file


def story(signer: Signer, home: Home, said: list[Vote | bytes]) -> None:
    """Votes and a block signature; what was handed out goes to `said`."""
    for one, certificate in (
        (vote(PREVOTE, 5, 0, A), None),
        (vote(PRECOMMIT, 5, 0, A), home.pol(5, 0, A)),
        (vote(PREVOTE, 5, 1, A), None),
    ):
        said.append(signer.sign_vote(one, certificate))
    signer.sign_block_hash(5, A, home.commit(5, 0, A))
    said.append(A)


def check_no_contradiction(signer: Signer, home: Home, said: list[Vote | bytes]) -> None:
    """Whatever was handed out cannot be contradicted."""
    for one in said:
        if isinstance(one, bytes):
            with pytest.raises(SignerRefused):
                signer.sign_block_hash(5, B, home.commit(5, 1, B))
        else:
            refused(signer, replace(one, block_hash=B), home.pol(5, one.round, B))
            assert signer.sign_vote(one, None) == one


@pytest.mark.parametrize("code", DISK_ERRORS)
def test_disk_when_it_refuses_any_operation_then_nothing_leaves(home: Home, code: int) -> None:
    home.open(GuardStart.FRESH).close()
    start = home.files().guard.read_bytes()
    counting = CountingDisk()
    signer = home.open(layer=counting)
    story(signer, home, [])
    signer.close()
    for at in range(1, counting.done):
        home.files().guard.write_bytes(start)
        said: list[Vote | bytes] = []
        signer = home.open(layer=CountingDisk(at, raise_errno(code)))
        with pytest.raises(SignerFailed):
            story(signer, home, said)
        with pytest.raises(SignerFailed):
            signer.sign_vote(vote(PREVOTE, 9, 0, NIL), None)
        with pytest.raises(SignerFailed):
            signer.sign_payment(home.trial())
        signer.close()
        again = home.open()
        check_no_contradiction(again, home, said)
        again.close()


def test_power_when_cut_at_any_operation_then_nothing_said_is_forgotten(home: Home) -> None:
    home.open(GuardStart.FRESH).close()
    start = home.files().guard.read_bytes()
    counting = CountingDisk()
    signer = home.open(layer=counting)
    story(signer, home, [])
    signer.close()
    for at in range(1, counting.done):
        home.files().guard.write_bytes(start)
        said: list[Vote | bytes] = []
        disk = PowerDisk(home.files().guard.parent, at)
        signer = home.open(layer=disk)
        with pytest.raises(Killed):
            story(signer, home, said)
        signer.close()
        disk.lose_power()
        again = home.open()
        check_no_contradiction(again, home, said)
        again.close()


def test_guard_when_any_bit_flips_then_refused(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    story(signer, home, [])
    signer.close()
    path = home.files().guard
    data = path.read_bytes()
    key = home.file.members[1].block_key[1:]
    sound = load_guard(path, GENESIS, key)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(GuardDamaged):
            load_guard(path, GENESIS, key)
    path.write_bytes(data[:-1])
    with pytest.raises(SignerFailed, match="damaged"):
        home.open()
    path.write_bytes(data)
    assert load_guard(path, GENESIS, key) == sound


def test_guard_when_of_another_key_or_chain_then_refused(home: Home) -> None:
    path = home.files().guard
    key = home.file.members[1].block_key[1:]
    for guard in (Guard(genesis=A, vote_key=key), Guard(genesis=GENESIS, vote_key=A)):
        save_guard(FileLayer(), path, guard)
        with pytest.raises(SignerFailed, match="another key or chain"):
            home.open()


def test_guard_when_missing_used_or_replaced_then_start_says_so(home: Home) -> None:
    with pytest.raises(SignerFailed, match="missing"):
        home.open()
    home.open(GuardStart.FRESH).close()
    home.open(GuardStart.FRESH).close()
    signer = home.open()
    signer.sign_vote(vote(PREVOTE, 5, 0, A), None)
    signer.close()
    with pytest.raises(SignerFailed, match="has signed before"):
        home.open(GuardStart.FRESH)
    restored = home.open(GuardStart.RESTORED)
    assert (restored.counter, restored.position) == (0, (0, -1, 0))
    restored.close()
    assert home.files().guard.with_name("guard.replaced").exists()


def test_signer_when_open_twice_then_second_fails(home: Home) -> None:
    signer = home.open(GuardStart.FRESH)
    with pytest.raises(SignerFailed):
        home.open()
    signer.close()
    with pytest.raises(SignerFailed):
        signer.sign_vote(vote(PREVOTE, 5, 0, A), None)
    home.open().close()


def test_key_files_when_open_to_others_wrong_or_unreadable_then_refused(home: Home) -> None:
    path = home.files().block_key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    path.chmod(0o640)
    with pytest.raises(SignerFailed, match="chmod 600"):
        home.open(GuardStart.FRESH)
    path.chmod(0o600)
    for wrong in ("", "zz" * 32, "00" * 32, "ff" * 32, text[:-4], "12" * 33):
        path.write_text(wrong)
        with pytest.raises(SignerFailed):
            home.open(GuardStart.FRESH)
    path.write_text("01" * 32)
    with pytest.raises(SignerFailed, match="federation file"):
        home.open(GuardStart.FRESH)
    path.unlink()
    with pytest.raises(SignerFailed):
        home.open(GuardStart.FRESH)


def test_secret_key_when_shown_copied_or_out_of_range_then_nothing_leaks() -> None:
    secret = b"\x07" * 32
    key = SecretKey(secret)
    for text in (repr(key), str(key), f"{key}", f"{key!r}", repr([key])):
        assert "SecretKey(…)" in text and secret.hex() not in text
    for copier in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            copier(key)
    for wrong in (b"", bytes(32), b"\xff" * 32, b"\x01" * 33):
        with pytest.raises(InvalidEncoding):
            SecretKey(wrong)
