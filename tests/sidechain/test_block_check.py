"""Rules of headers and bodies, and the block signature."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from sidechain.crypto.keys import ecdsa_sign
from sidechain.errors import InvalidBlock, InvalidEncoding
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.encoding import le32, vectors
from sidechain.primitives.genesis import genesis_block
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction, TxIn
from sidechain.script.block_signature import (
    signblock_witness,
    signblock_witness_size,
    verify_block_signature,
)
from sidechain.script.script import p2wpkh, push, push_number
from sidechain.validation.block_check import (
    WITNESS_COMMITMENT_PREFIX,
    check_block,
    check_header,
    contextual_check_block,
    witness_commitment,
)
from tests.sidechain.example_chain import (
    BLOCK_KEYS,
    BLOCK_SECRETS,
    ListedHeaders,
    build_block,
    example_params,
    output,
    sign_block,
    spend,
)

PARAMS = example_params()
POINT = OutPoint(b"\x01" * 32, 0)
FAR_FUTURE_S = 10**10


def _chain(count: int = 3) -> ListedHeaders:
    chain = ListedHeaders(PARAMS)
    chain.grow(count)
    return chain


def _reason(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidBlock) as caught:
        call()
    return caught.value.reason


def _header_reason(header: BlockHeader, chain: ListedHeaders, now_s: int = FAR_FUTURE_S) -> str:
    return _reason(lambda: check_header(header, chain, PARAMS, now_s, check_signature=False))


def _remerkled(block: Block, *transactions: Transaction) -> Block:
    changed = Block(block.header, transactions)
    root, _ = changed.transaction_root()
    return Block(replace(block.header, merkle_root=root), transactions)


def test_signed_block_passes_and_an_unsigned_one_does_not() -> None:
    chain = _chain()
    block = build_block(chain, [], [])
    for pair in ([0, 1], [0, 2], [1, 2]):
        signed = sign_block(block, [BLOCK_SECRETS[i] for i in pair])
        check_header(signed.header, chain, PARAMS, FAR_FUTURE_S, check_signature=True)
    assert _reason(lambda: verify_block_signature(block.header, PARAMS)) == "block-proof-invalid"
    check_header(block.header, chain, PARAMS, FAR_FUTURE_S, check_signature=False)


def test_genesis_needs_no_signature_and_other_legacy_headers_need_a_bare_one() -> None:
    header = genesis_block(PARAMS).header
    verify_block_signature(header, PARAMS)
    other = replace(header, time=header.time + 1)
    signatures = [ecdsa_sign(secret, other.hash) for secret in BLOCK_SECRETS[:2]]
    solution = b"\0" + b"".join(bytes((len(s),)) + s for s in signatures)
    verify_block_signature(replace(other, solution=solution), PARAMS)
    marked = b"\0" + b"".join(bytes((len(s) + 1,)) + s + b"\1" for s in signatures)
    for wrong in (marked, solution + b"\0", solution + bytes(300), b""):
        header = replace(other, solution=wrong)
        reason = _reason(lambda header=header: verify_block_signature(header, PARAMS))
        assert reason == "block-proof-invalid"


@pytest.mark.parametrize("fault", ["order", "dummy", "extra", "type", "one", "script", "limit"])
def test_faulty_signatures_are_refused(fault: str) -> None:
    block = sign_block(build_block(_chain(), [], []), BLOCK_SECRETS[:2])
    dummy, first, second, script = block.header.signblock_witness
    items = {
        "order": (dummy, second, first, script),
        "dummy": (b"\1", first, second, script),
        "extra": (b"", dummy, first, second, script),
        "type": (dummy, first[:-1] + b"\2", second, script),
        "one": (dummy, first, script),
        "script": (dummy, first, second, script + b"\x61"),
        "limit": (dummy, first, second, script),
    }[fault]
    header = replace(block.header, signblock_witness=items)
    if fault == "limit":
        size = len(vectors(items))
        low = replace(header.current, witness_limit=size - 1)
        header = replace(header, current=low)
    assert _reason(lambda: verify_block_signature(header, PARAMS)) == "block-proof-invalid"


def test_single_key_program_can_sign() -> None:
    block = build_block(_chain(), [], [])
    current = replace(block.header.current, signblockscript=p2wpkh(BLOCK_KEYS[0]))
    header = replace(block.header, current=current)
    signature = ecdsa_sign(BLOCK_SECRETS[0], header.hash) + b"\1"
    witness = (signature, BLOCK_KEYS[0])
    verify_block_signature(replace(header, signblock_witness=witness), PARAMS)


def test_witness_is_assembled_in_key_order_from_enough_signatures() -> None:
    signatures = {key: bytes([n]) * 70 for n, key in enumerate(BLOCK_KEYS)}
    witness = signblock_witness(2, BLOCK_KEYS, dict(reversed(signatures.items())))
    assert witness[:3] == (b"", bytes([0]) * 70 + b"\1", bytes([1]) * 70 + b"\1")
    with pytest.raises(InvalidEncoding):
        signblock_witness(2, BLOCK_KEYS, {BLOCK_KEYS[0]: b"s"})
    block = sign_block(build_block(_chain(), [], []), BLOCK_SECRETS)
    size = len(vectors(block.header.signblock_witness))
    assert size <= signblock_witness_size(2, 3) <= 254


def test_header_context_is_checked_in_order() -> None:
    chain = _chain(12)
    good = chain.next_header()
    check_header(good, chain, PARAMS, good.time - 7200, check_signature=False)
    faults: list[tuple[dict[str, object], str]] = [
        ({"prev_hash": bytes(32)}, "prev-blk-not-found"),
        ({"time": chain.header(7).time}, "time-too-old"),
        ({"height": 14}, "bad-header-height"),
        ({"time": good.time + 1}, "time-too-new"),
        ({"version": 3}, "bad-version(0x00000003)"),
        ({"version": 0x20000000 | 1 << 25}, "invalid-dyna-fed"),
    ]
    for changes, reason in faults:
        header = replace(good, **changes)  # type: ignore[arg-type]
        assert _header_reason(header, chain, good.time - 7200) == reason
    both = replace(good, version=3, height=1)
    assert _header_reason(both, chain) == "bad-header-height"


def test_body_passes_alone_and_in_context() -> None:
    chain = _chain()
    tx = spend(POINT, outputs=[output(PARAMS, 5)])
    block = build_block(chain, [tx], [output(PARAMS, 0, b"\x6a")])
    check_block(block, PARAMS)
    contextual_check_block(block, chain, PARAMS)


def test_body_faults_have_elements_reasons() -> None:
    tx = spend(POINT, outputs=[output(PARAMS, 5)])
    block = build_block(_chain(), [tx], [])
    coinbase = block.transactions[0]
    second = build_block(_chain(5), [], []).transactions[0]
    many = spend(POINT, outputs=[output(PARAMS, 1, b"\xae" * 1001)])
    bad = spend(POINT, outputs=[])
    rootless = Block(replace(block.header, merkle_root=bytes(32)), block.transactions)
    faults = [
        (rootless, "bad-txnmrklroot"),
        (_remerkled(block, coinbase, tx, tx, tx), "bad-txns-duplicate"),
        (_remerkled(block), "bad-blk-length"),
        (_remerkled(block, tx, coinbase), "bad-cb-missing"),
        (_remerkled(block, coinbase, second), "bad-cb-multiple"),
        (_remerkled(block, coinbase, bad), "bad-txns-vout-empty"),
        (_remerkled(block, coinbase, many), "bad-blk-sigops"),
    ]
    for changed, reason in faults:
        assert _reason(lambda changed=changed: check_block(changed, PARAMS)) == reason


def test_locked_transactions_are_not_final_in_the_next_block() -> None:
    chain = _chain()
    tx = Transaction.build(inputs=[TxIn(POINT, b"", 0)], outputs=[output(PARAMS, 5)], locktime=4)
    block = build_block(chain, [tx], [])
    assert _reason(lambda: contextual_check_block(block, chain, PARAMS)) == "bad-txns-nonfinal"
    chain.grow(1)
    contextual_check_block(build_block(chain, [tx], []), chain, PARAMS)


def _with_coinbase(block: Block, **changes: object) -> Block:
    old = block.transactions[0]
    fields: dict[str, object] = {
        "inputs": old.inputs,
        "outputs": old.outputs,
        "input_witnesses": old.input_witnesses,
        "output_witnesses": old.output_witnesses,
    }
    coinbase = Transaction.build(**(fields | changes))  # type: ignore[arg-type]
    return _remerkled(block, coinbase, *block.transactions[1:])


@pytest.mark.parametrize("height", [1, 16, 17, 127, 128, 255, 256])
def test_coinbase_starts_with_the_shortest_push_of_its_height(height: int) -> None:
    chain = _chain(height - 1)
    block = build_block(chain, [], [])
    contextual_check_block(block, chain, PARAMS)
    prevout = block.transactions[0].inputs[0].prevout
    for script_sig in (push_number(height + 1) + b"\0", push(le32(height)), b"\0\0"):
        changed = _with_coinbase(block, inputs=[TxIn(prevout, script_sig)])
        reason = _reason(lambda changed=changed: contextual_check_block(changed, chain, PARAMS))
        assert reason == "bad-cb-height"


def test_coinbase_witness_holds_nothing_but_the_reserved_value() -> None:
    chain = _chain()
    block = build_block(chain, [], [])
    reserved = (bytes(32),)
    cases = [
        (InputWitness(script=reserved, pegin=(b"",)), "bad-cb-witness"),
        (InputWitness(issuance_range_proof=b"p", script=reserved), "bad-cb-witness"),
        (InputWitness(inflation_range_proof=b"p", script=reserved), "bad-cb-witness"),
        (InputWitness(), "bad-witness-nonce-size"),
        (InputWitness(script=(bytes(31),)), "bad-witness-nonce-size"),
        (InputWitness(script=(bytes(32), b"")), "bad-witness-nonce-size"),
        (InputWitness(script=(b"\1" * 32,)), "bad-witness-merkle-match"),
    ]
    for witness, reason in cases:
        changed = _with_coinbase(block, input_witnesses=[witness])
        found = _reason(lambda changed=changed: contextual_check_block(changed, chain, PARAMS))
        assert found == reason


def test_witness_without_commitment_is_unexpected() -> None:
    chain = _chain()
    plain = spend(POINT, outputs=[output(PARAMS, 5)])
    with_witness = spend(
        POINT, outputs=[output(PARAMS, 5)], input_witnesses=[InputWitness(script=(b"x",))]
    )
    none = [output(PARAMS, 0, b"\x6a")]
    contextual_check_block(build_block(chain, [plain], none, commit=False), chain, PARAMS)
    block = build_block(chain, [with_witness], none, commit=False)
    assert _reason(lambda: contextual_check_block(block, chain, PARAMS)) == "unexpected-witness"


def test_last_of_several_commitments_counts() -> None:
    chain = _chain()
    stray = output(PARAMS, 0, WITNESS_COMMITMENT_PREFIX + bytes(32))
    block = build_block(chain, [], [stray])
    contextual_check_block(block, chain, PARAMS)
    swapped = _with_coinbase(block, outputs=block.transactions[0].outputs[::-1])
    reason = _reason(lambda: contextual_check_block(swapped, chain, PARAMS))
    assert reason == "bad-witness-merkle-match"


@pytest.mark.parametrize(
    ("behind", "reason"),
    [
        (lambda good: [good + b"\0"], ""),
        (lambda good: [good + bytes(500)], ""),
        (lambda good: [good, good[:-1]], ""),
        (lambda good: [good, b"\x6a\x25" + good[2:] + b"\0"], ""),
        (lambda good: [good, good[:6] + bytes(33)], "bad-witness-merkle-match"),
        (lambda good: [good[:-1]], "unexpected-witness"),
    ],
)
def test_commitment_when_long_or_beside_others_then_its_first_38_bytes_count(
    behind: Callable[[bytes], list[bytes]], reason: str
) -> None:
    """elements/blocks.md 5.1: at least 38 bytes, the last of its form."""
    chain = _chain()
    block = build_block(chain, [], [])
    # The root depends on how many outputs the coinbase has, but not on their scripts.
    count = len(behind(bytes(38)))
    blank = _with_coinbase(block, outputs=[output(PARAMS, 0, b"\x6a")] * count, output_witnesses=())
    good = WITNESS_COMMITMENT_PREFIX + witness_commitment(blank.witness_root(), bytes(32))
    outputs = [output(PARAMS, 0, script) for script in behind(good)]
    changed = _with_coinbase(block, outputs=outputs, output_witnesses=())
    if reason:
        assert _reason(lambda: contextual_check_block(changed, chain, PARAMS)) == reason
    else:
        contextual_check_block(changed, chain, PARAMS)


def test_weight_counts_witness_once_and_the_rest_four_times() -> None:
    chain = _chain()
    room = 4_000_000 - build_block(chain, [], []).weight_wu
    for size, fits in ((room - 1000, True), (room + 1000, False)):
        items = (bytes(size),)
        tx = spend(POINT, outputs=[output(PARAMS, 5)], input_witnesses=[InputWitness(script=items)])
        block = build_block(chain, [tx], [])
        check_block(block, PARAMS)
        if fits:
            contextual_check_block(block, chain, PARAMS)
        else:
            reason = _reason(lambda block=block: contextual_check_block(block, chain, PARAMS))
            assert reason == "bad-blk-weight"
