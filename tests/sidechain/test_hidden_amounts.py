"""Balance of amounts and assets that are hidden, with their proofs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidechain.crypto import zkp
from sidechain.errors import InvalidTransaction
from sidechain.params import MAX_MONEY_SATS
from sidechain.primitives.confidential import NULL, explicit_value
from sidechain.primitives.issuance import (
    asset_from_entropy,
    issued_ids,
    token_from_entropy,
)
from sidechain.primitives.transaction import (
    InputWitness,
    Issuance,
    OutPoint,
    OutputWitness,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.validation.amounts import balances_plainly, check_amounts
from sidechain.validation.coins import Coin
from sidechain.validation.proofs import (
    ProofCheck,
    RangeProofCheck,
    SurjectionProofCheck,
    verify_proofs,
)
from tests.hidden import Opening, balanced, blinder, hidden_transaction

PEGGED = b"\x01" * 32
OTHER = b"\x02" * 32
NOT_A_POINT = bytes(31) + b"\5"


def _inputs(count: int) -> list[TxIn]:
    return [TxIn(OutPoint(bytes([n + 1]) * 32, 0)) for n in range(count)]


def _open(amount: int, asset: bytes = PEGGED, **fields: Any) -> Opening:
    return Opening(asset_id=asset, amount=amount, bits=8, **fields)


def _judge(tx: Transaction, coins: Sequence[Coin]) -> tuple[ProofCheck, ...]:
    checks = check_amounts(tx, coins, PEGGED)
    verify_proofs(checks)
    return checks


def _accepted(tx: Transaction, sources: Sequence[Opening]) -> tuple[ProofCheck, ...]:
    return _judge(tx, [item.coin for item in sources[: len(tx.inputs)]])


def _refused(tx: Transaction, sources: Sequence[Opening]) -> str:
    with pytest.raises(InvalidTransaction) as caught:
        _accepted(tx, sources)
    assert caught.value.reason == "bad-txns-in-ne-out"
    return caught.value.detail


def _payment() -> tuple[Transaction, list[Opening]]:
    """Two hidden inputs of two assets, three hidden outputs, a fee and a burn."""
    sources = [_open(100).hidden("in 0"), _open(60, OTHER).hidden("in 1")]
    outputs = [
        _open(70).hidden("out 0"),
        _open(60, OTHER, script=b"\x52").hidden("out 1"),
        _open(20).hidden("out 2"),
        _open(9, script=b"\x6a"),
        _open(1, script=b""),
    ]
    return hidden_transaction(_inputs(2), sources, outputs), sources


def _change(tx: Transaction, **fields: Any) -> Transaction:
    kept = {
        "inputs": tx.inputs,
        "outputs": tx.outputs,
        "input_witnesses": tx.input_witnesses,
        "output_witnesses": tx.output_witnesses,
    }
    return Transaction.build(**{**kept, **fields})


def _with_output(tx: Transaction, index: int, **fields: Any) -> Transaction:
    outputs = list(tx.outputs)
    outputs[index] = replace(outputs[index], **fields)
    return _change(tx, outputs=outputs)


def _with_proofs(tx: Transaction, index: int, **fields: Any) -> Transaction:
    witnesses = list(tx.output_witnesses)
    witnesses[index] = replace(witnesses[index], **fields)
    return _change(tx, output_witnesses=witnesses)


def test_payment_when_hidden_then_its_proofs_are_what_is_left_to_verify() -> None:
    tx, sources = _payment()
    checks = _accepted(tx, sources)
    kinds = [type(check) for check in checks]
    assert kinds == [RangeProofCheck] * 3 + [SurjectionProofCheck] * 3
    first = checks[0]
    assert isinstance(first, RangeProofCheck)
    assert first.commitment == tx.outputs[0].value
    assert first.generator == tx.outputs[0].asset
    last = checks[-1]
    assert isinstance(last, SurjectionProofCheck)
    assert last.targets == tuple(item.asset_field for item in sources)


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_payments_when_hidden_in_any_mixture_then_balance_per_asset(data: st.DataObject) -> None:
    """Whatever is shown or hidden, one unit more or less of one asset is refused."""
    hiding = st.sampled_from(["nothing", "amount", "asset", "both"])
    amounts = {asset: data.draw(st.integers(2, 200)) for asset in (PEGGED, OTHER)}
    sources = [
        _hide(_open(amount, asset), data.draw(hiding), f"in {asset.hex()}")
        for asset, amount in amounts.items()
    ]
    outputs = [_hide(_open(1), "both", "balancing")]
    for asset, amount in amounts.items():
        left = amount - (asset == PEGGED)
        first = data.draw(st.integers(1, left))
        for position, part in enumerate((first, left - first)):
            if part:
                name = f"out {position} {asset.hex()}"
                outputs.append(_hide(_open(part, asset), data.draw(hiding), name))
    outputs = outputs[1:] + outputs[:1]
    _accepted(hidden_transaction(_inputs(2), sources, outputs), sources)
    for change in (-1, 1):
        changed = list(outputs)
        changed[0] = replace(changed[0], amount=changed[0].amount + change)
        if changed[0].amount:
            tx = hidden_transaction(_inputs(2), sources, changed)
            assert _refused(tx, sources) == "value in != value out"


def _hide(item: Opening, what: str, name: str) -> Opening:
    hidden = item.hidden(name)
    match what:
        case "both":
            return hidden
        case "asset":
            return replace(hidden, value_blinder=None)
        case "amount":
            return replace(hidden, asset_blinder=None)
    return item


def test_balance_when_blinders_do_not_add_up_then_refused() -> None:
    tx, sources = _payment()
    other = replace(sources[0], value_blinder=blinder("other"))
    assert _refused(tx, [other, sources[1]]) == "value in != value out"
    assert _refused(tx, [sources[1], sources[0]]) != ""


@pytest.mark.parametrize("shown_in", [0, 2])
def test_balance_when_what_is_shown_differs_by_one_then_on_its_side(shown_in: int) -> None:
    """One more is hidden on the one side than on the other, and one shown makes up for it."""
    sources = [_open(100).hidden("in 0"), _open(shown_in + 1)]
    outputs = [_open(100 + shown_in).hidden("out 0"), _open(1)]
    tx = hidden_transaction(_inputs(2), sources, outputs)
    assert _accepted(tx, sources)
    more = replace(sources[1], amount=shown_in + 2)
    assert _refused(tx, [sources[0], more]) == "value in != value out"


@pytest.mark.parametrize("position", [1, -1])
def test_asset_when_hidden_and_any_of_its_bytes_is_one_then_still_hidden(position: int) -> None:
    """The first byte says whether an asset is shown, and no other."""
    tried = (replace(_open(5), asset_blinder=blinder(f"try {n}")) for n in range(4_000))
    source = next(item for item in tried if item.asset_field[position] == 1)
    tx = Transaction.build(inputs=_inputs(1), outputs=[source.output])
    assert not balances_plainly(tx, [source.coin])
    with pytest.raises(InvalidTransaction, match="hidden asset without surjection proof"):
        check_amounts(tx, [source.coin], PEGGED)
    hidden = hidden_transaction(_inputs(1), [source], [_open(5).hidden("out")])
    assert _accepted(hidden, [source])
    other = replace(source, asset_blinder=blinder("another"))
    with pytest.raises(InvalidTransaction, match="value in != value out"):
        check_amounts(tx, [other.coin], PEGGED)


def test_balance_when_an_asset_turns_into_another_then_refused() -> None:
    sources = [_open(100).hidden("in")]
    outputs = [_open(99, OTHER).hidden("out"), _open(1, script=b"")]
    balancing = balanced(sources, outputs)
    proofs = [OutputWitness(b"\x01", balancing[0].range_proof()), OutputWitness()]
    tx = Transaction.build(
        inputs=_inputs(1), outputs=[o.output for o in balancing], output_witnesses=proofs
    )
    assert _refused(tx, sources) == "value in != value out"


def test_sums_of_shown_amounts_when_above_64_bits_then_still_balanced() -> None:
    """Spent amounts of one asset that add up to more than one commitment can hold."""
    count = 10_000
    total = count * MAX_MONEY_SATS
    assert total > 2**64
    inputs = [TxIn(OutPoint(n.to_bytes(32, "big"), 0)) for n in range(count)]
    sources = [_open(MAX_MONEY_SATS)] * count
    half = replace(_open(total // 2), value_blinder=blinder("half"))
    for amount, balances in ((total - total // 2, True), (total - total // 2 + 1, False)):
        rest = replace(_open(amount), value_blinder=blinder("rest"))
        outputs = balanced(sources, [half, rest])
        tx = Transaction.build(
            inputs=inputs,
            outputs=[item.output for item in outputs],
            output_witnesses=[OutputWitness(b"", b"unjudged")] * 2,
        )
        coins = [item.coin for item in sources]
        if balances:
            assert len(check_amounts(tx, coins, PEGGED)) == 2
        else:
            with pytest.raises(InvalidTransaction, match="value in != value out"):
                check_amounts(tx, coins, PEGGED)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_proofs_when_missing_or_of_another_output_then_refused(index: int) -> None:
    tx, sources = _payment()
    other = tx.output_witnesses[(index + 1) % 3]
    details = [
        _refused(_with_proofs(tx, index, range_proof=b""), sources),
        _refused(_with_proofs(tx, index, surjection_proof=b""), sources),
        _refused(_with_proofs(tx, index, range_proof=other.range_proof), sources),
        _refused(_with_proofs(tx, index, surjection_proof=other.surjection_proof), sources),
    ]
    assert details == [
        "hidden amount without range proof",
        "hidden asset without surjection proof",
        "range proof does not hold",
        "surjection proof does not hold",
    ]


def test_proofs_of_what_is_shown_are_refused() -> None:
    tx, sources = _payment()
    for index in (3, 4):
        detail = _refused(_with_proofs(tx, index, range_proof=b"p"), sources)
        assert detail == "range proof of an amount that is shown"
        detail = _refused(_with_proofs(tx, index, surjection_proof=b"p"), sources)
        assert detail == "surjection proof of an asset that is shown"


def test_witness_section_when_missing_then_refused() -> None:
    tx, sources = _payment()
    assert _refused(_change(tx, output_witnesses=[]), sources) == (
        "hidden amount without range proof"
    )


def test_script_when_changed_then_its_range_proof_does_not_hold() -> None:
    tx, sources = _payment()
    assert _refused(_with_output(tx, 0, script=b"\x53"), sources) == "range proof does not hold"


def test_nonce_when_changed_then_nothing_is_wrong() -> None:
    tx, sources = _payment()
    for nonce in (b"\x02" + NOT_A_POINT, b"\x01" + bytes(32)):
        _accepted(_with_output(tx, 0, nonce=nonce), sources)


def test_commitments_that_are_no_points_are_refused() -> None:
    tx, sources = _payment()
    for prefix in (b"\x0a", b"\x0b"):
        detail = _refused(_with_output(tx, 0, asset=prefix + NOT_A_POINT), sources)
        assert detail == "asset commitment is no point"
    for prefix in (b"\x08", b"\x09"):
        detail = _refused(_with_output(tx, 0, value=prefix + NOT_A_POINT), sources)
        assert detail == "value commitment is no point"
    coin = sources[0].coin
    for changed in (
        replace(coin, asset=b"\x0a" + NOT_A_POINT),
        replace(coin, value=b"\x08" + NOT_A_POINT),
        replace(coin, asset=b"\x0a" + NOT_A_POINT, value=explicit_value(5)),
    ):
        with pytest.raises(InvalidTransaction, match="is no point"):
            check_amounts(tx, [changed, sources[1].coin], PEGGED)
    zero_shown = _with_output(
        tx, 3, asset=b"\x0a" + NOT_A_POINT, value=explicit_value(0), script=b"\x6a"
    )
    assert _refused(zero_shown, sources) == "asset commitment is no point"


def test_coins_that_show_nothing_at_all_are_refused() -> None:
    tx, sources = _payment()
    for changed in (replace(sources[0].coin, asset=NULL), replace(sources[0].coin, value=NULL)):
        with pytest.raises(InvalidTransaction, match="spent output without asset or amount"):
            check_amounts(tx, [changed, sources[1].coin], PEGGED)


@pytest.mark.parametrize(
    ("script", "least", "amount", "valid"),
    [
        (b"\x51", 0, 5, False),
        (b"\x51", 1, 5, True),
        (b"\x51", 5, 5, True),
        (b"\x6a", 0, 5, True),
        (b"\x6a", 0, 0, True),
        (b"", 0, 5, True),
        (b"", 0, 0, True),
        (bytes(10_001), 0, 0, True),
        (bytes(10_000), 0, 0, False),
    ],
)
def test_range_when_it_starts_at_zero_then_only_for_what_nobody_can_spend(
    script: bytes, least: int, amount: int, valid: bool
) -> None:
    sources = [_open(100).hidden("in")]
    outputs = [
        replace(_open(amount, script=script).hidden("out"), least=least),
        _open(100 - amount).hidden("change"),
    ]
    tx = hidden_transaction(_inputs(1), sources, outputs)
    if valid:
        _accepted(tx, sources)
    else:
        assert _refused(tx, sources) == "range of a spendable output starts at zero"


def test_range_proof_when_of_one_exact_amount_then_accepted() -> None:
    sources = [_open(100).hidden("in")]
    outputs = [
        replace(_open(60), bits=0).hidden("a"),
        replace(_open(40), value_blinder=blinder("b")),
    ]
    exact = balanced(sources, outputs)
    proof = zkp.sign_range_proof(
        60,
        exact[0].value_blinder or b"",
        exact[0].generator,
        nonce=blinder("nonce"),
        message=b"",
        extra=exact[0].script,
        least=60,
        exponent=-1,
        bits=0,
    )
    assert zkp.range_proof_info(proof) == (-1, 0, 60, 60)
    tx = hidden_transaction(_inputs(1), sources, outputs)
    tx = _with_proofs(tx, 0, range_proof=proof)
    _accepted(tx, sources)


def test_output_when_it_reuses_the_commitment_of_an_input_then_no_proof_holds() -> None:
    source = _open(100).hidden("in")
    outputs = [replace(_open(60).hidden("out"), asset_blinder=source.asset_blinder), _open(40)]
    outputs = balanced([source], [outputs[1].hidden("change"), outputs[0]])
    assert outputs[1].asset_field == source.asset_field
    with pytest.raises(zkp.InvalidEncoding):
        outputs[1].surjection_proof([source])
    witnesses = [
        OutputWitness(outputs[0].surjection_proof([source]), outputs[0].range_proof()),
        OutputWitness(b"\1\0\1" + b"\1" * 64, outputs[1].range_proof()),
    ]
    tx = Transaction.build(
        inputs=_inputs(1), outputs=[o.output for o in outputs], output_witnesses=witnesses
    )
    assert _refused(tx, [source]) == "surjection proof does not hold"


def test_targets_when_more_than_256_then_no_asset_can_be_hidden_but_amounts_can() -> None:
    count = 257
    inputs = [TxIn(OutPoint(n.to_bytes(32, "big"), 0)) for n in range(count)]
    sources = [_open(1)] * count
    amount_only = [replace(_open(count), value_blinder=blinder("a"), least=0)]
    burned = [replace(amount_only[0], script=b"\x6a"), replace(_open(0), script=b"\x6a")]
    tx = hidden_transaction(inputs, sources, burned)
    assert len(_accepted(tx, sources)) == 1
    hidden = balanced(sources, [_open(count, script=b"\x6a").hidden("a")])
    within = zkp.sign_surjection_proof(
        [zkp.BlindedAsset(PEGGED, bytes(32))] * 256,
        zkp.BlindedAsset(PEGGED, hidden[0].asset_blinder or b""),
        seed=bytes(32),
        used=1,
    )
    for proof in (within, b"\x01\x01" + within[2:]):
        tx = Transaction.build(
            inputs=inputs,
            outputs=[hidden[0].output],
            output_witnesses=[OutputWitness(proof, hidden[0].range_proof())],
        )
        assert _refused(tx, sources) == "surjection proof does not hold"


class _Issue:
    """A new issuance on one shown input of 10 units of the pegged asset."""

    def __init__(self, *, hide_amount: bool, hide_tokens: bool) -> None:
        self.source = _open(10)
        probe = Issuance(
            blinding_nonce=bytes(32),
            entropy=b"\x05" * 32,
            amount=b"\x08" + bytes(32) if hide_amount else explicit_value(7),
            inflation_keys=NULL,
        )
        ids = issued_ids(TxIn(OutPoint(b"\1" * 32, 0), issuance=probe))
        assert ids is not None
        self.ids = ids
        self.amount = _open(7, ids.asset, script=b"", least=0)
        self.tokens = _open(2, ids.token, script=b"", least=0)
        if hide_amount:
            self.amount = replace(self.amount, value_blinder=blinder("issued"))
        if hide_tokens:
            self.tokens = replace(self.tokens, value_blinder=blinder("tokens"))

    @property
    def sources(self) -> list[Opening]:
        return [self.source, self.amount, self.tokens]

    def transaction(self, outputs: Sequence[Opening], **proofs: bytes) -> Transaction:
        issuance = Issuance(
            blinding_nonce=bytes(32),
            entropy=b"\x05" * 32,
            amount=self.amount.value_field,
            inflation_keys=self.tokens.value_field,
        )
        witness = {
            "issuance_range_proof": self.amount.range_proof(),
            "inflation_range_proof": self.tokens.range_proof(),
            "script": (b"x",),
            **proofs,
        }
        return hidden_transaction(
            [TxIn(OutPoint(b"\1" * 32, 0), issuance=issuance)],
            self.sources,
            outputs,
            input_witnesses=[InputWitness(**witness)],
        )

    def outputs(self) -> list[Opening]:
        return [
            _open(10).hidden("change"),
            _open(7, self.ids.asset).hidden("issued out"),
            _open(2, self.ids.token).hidden("tokens out"),
        ]


@pytest.mark.parametrize("hide_amount", [False, True])
@pytest.mark.parametrize("hide_tokens", [False, True])
def test_issuance_when_hidden_or_shown_then_what_it_makes_can_be_hidden(
    hide_amount: bool, hide_tokens: bool
) -> None:
    issue = _Issue(hide_amount=hide_amount, hide_tokens=hide_tokens)
    tx = issue.transaction(issue.outputs())
    checks = _accepted(tx, [issue.source])
    kinds = [type(check) for check in checks]
    hidden = hide_amount + hide_tokens
    assert kinds == [RangeProofCheck] * (hidden + 3) + [SurjectionProofCheck] * 3
    last = checks[-1]
    assert isinstance(last, SurjectionProofCheck)
    expected = [zkp.asset_generator(item.asset_id) for item in issue.sources]
    assert last.targets == tuple(map(zkp.serialize_generator, expected))
    for item in ("issuance_range_proof", "inflation_range_proof"):
        _refused(issue.transaction(issue.outputs(), **{item: b"p"}), [issue.source])
    if hide_amount:
        detail = _refused(
            issue.transaction(issue.outputs(), issuance_range_proof=b""), [issue.source]
        )
        assert detail == "hidden amount without range proof"
    more = issue.outputs()
    more[1] = replace(more[1], amount=8)
    assert _refused(issue.transaction(more), [issue.source]) == "value in != value out"


def test_token_id_when_the_amount_is_shown_then_the_other_token_is_not_made() -> None:
    shown, hidden = (_Issue(hide_amount=hide, hide_tokens=False) for hide in (False, True))
    assert shown.ids.asset == hidden.ids.asset
    assert shown.ids.token != hidden.ids.token
    for issue, other in ((shown, hidden), (hidden, shown)):
        tokens = _open(2, issue.ids.token)
        _accepted(issue.transaction([*issue.outputs()[:2], tokens]), [issue.source])
        wrong = replace(tokens, asset_id=other.ids.token)
        tx = issue.transaction([*issue.outputs()[:2], wrong])
        assert _refused(tx, [issue.source]) == "value in != value out"


def test_issued_amount_when_its_commitment_is_no_point_then_refused() -> None:
    issue = _Issue(hide_amount=True, hide_tokens=False)
    tx = issue.transaction(issue.outputs())
    issuance = tx.inputs[0].issuance
    assert issuance is not None
    wrong = replace(issuance, amount=b"\x08" + NOT_A_POINT)
    changed = _change(tx, inputs=[replace(tx.inputs[0], issuance=wrong)])
    assert _refused(changed, [issue.source]) == "value commitment is no point"


ENTROPY = b"\x06" * 32


def _reissue(
    *,
    hide_amount: bool,
    token: Opening | None = None,
    keys: bytes = NULL,
    nonce: bytes | None = None,
) -> tuple[Transaction, list[Opening]]:
    token_id = token_from_entropy(ENTROPY, confidential_amount=hide_amount)
    source = token or _open(1, token_id).hidden("token")
    made = _open(50, asset_from_entropy(ENTROPY), script=b"", least=0)
    if hide_amount:
        made = replace(made, value_blinder=blinder("made"))
    issuance = Issuance(
        blinding_nonce=(source.asset_blinder or b"\1" * 32) if nonce is None else nonce,
        entropy=ENTROPY,
        amount=made.value_field,
        inflation_keys=keys,
    )
    sources = [source, made]
    tx = hidden_transaction(
        [TxIn(OutPoint(b"\1" * 32, 0), issuance=issuance)],
        sources,
        [
            _open(50, made.asset_id).hidden("made out"),
            _open(source.amount, source.asset_id).hidden("token out"),
        ],
        input_witnesses=[
            InputWitness(issuance_range_proof=made.range_proof(), script=(b"x",)),
        ],
    )
    return tx, [source]


@pytest.mark.parametrize("hide_amount", [False, True])
def test_reissuance_when_its_token_is_spent_then_accepted(hide_amount: bool) -> None:
    tx, sources = _reissue(hide_amount=hide_amount)
    _accepted(tx, sources)


@pytest.mark.parametrize("hide_amount", [False, True])
def test_reissuance_when_the_token_is_another_then_refused(hide_amount: bool) -> None:
    detail = "reissuance does not spend the asset's token"
    wrong_kind = token_from_entropy(ENTROPY, confidential_amount=not hide_amount)
    right = token_from_entropy(ENTROPY, confidential_amount=hide_amount)
    shown = _open(1, right)
    amount_hidden = replace(shown, value_blinder=blinder("t"))
    for token in (_open(1, wrong_kind).hidden("token"), shown, amount_hidden):
        assert _refused(*_reissue(hide_amount=hide_amount, token=token)) == detail
    for nonce in (blinder("wrong"), b"\xff" * 32):
        assert _refused(*_reissue(hide_amount=hide_amount, nonce=nonce)) == detail


def test_reissuance_when_it_makes_tokens_then_refused() -> None:
    tx, sources = _reissue(hide_amount=False, keys=explicit_value(1))
    assert _refused(tx, sources) == "reissuance of tokens"


def test_any_output_fields_are_judged() -> None:
    """Every prefix with every other field: refused, never anything else."""
    tx, sources = _payment()
    point = tx.outputs[0].asset[1:]
    assets = [bytes([prefix]) + point for prefix in (1, 10, 11)]
    values = [explicit_value(5), b"\x08" + point, b"\x09" + point]
    for asset in assets:
        for value in values:
            output = TxOut(asset, value, NULL, b"\x51")
            outputs = [output, *tx.outputs[1:]]
            if output != tx.outputs[0]:
                _refused(_change(tx, outputs=outputs), sources)
