"""Descriptors: written, read back, and everything else refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.errors import InvalidEncoding
from sidechain.wallet.descriptor import account_descriptor, checksum, parse_descriptor
from sidechain.wallet.keys import (
    Branch,
    KeyOrigin,
    PrivateAccount,
    PublicAccount,
    SecretKey,
    seed_of_mnemonic,
)

ACCOUNT = PrivateAccount.from_seed(seed_of_mnemonic("abandon " * 11 + "about")).public
KEY = (
    "tpubDC8msFGeGuwnKG9Upg7DM2b4DaRqg3CUZa5g8v2SRQ6K4NSkxUgd7HsL2XVWbVm39yBA4LAxysQAm397zwQSQoQgew"
    "GiYZqrA9DsP4zbQ1M"
)
BLINDING = "9c8e4f05c7711a98c838be228bcb84924d4570ca53f35fa1c793e58841d47023"
INNER = f"elwpkh([73c5da0a/84'/1'/0']{KEY}/<0;1>/*)"
LWK = f"ct(slip77({BLINDING}),{INNER})#2e4n992d"
"""What lwk 0.19 gives for these words."""


def parts(account: PublicAccount) -> tuple[bytes, SecretKey | None, KeyOrigin | None]:
    return account.extended_key, account.master_blinding_key, account.origin


def test_descriptor_of_lwk_when_read_then_our_account_of_the_same_words() -> None:
    assert parts(parse_descriptor(LWK)) == parts(ACCOUNT)
    assert parts(parse_descriptor(f" {LWK}\n")) == parts(ACCOUNT)
    without = parse_descriptor(INNER)
    assert parts(without) == (ACCOUNT.extended_key, None, ACCOUNT.origin)


@pytest.mark.parametrize("blinded", [True, False])
def test_descriptor_when_written_then_read_back_with_its_checksum(blinded: bool) -> None:
    text = account_descriptor(ACCOUNT, blinded=blinded)
    body, _, mark = text.partition("#")
    assert mark == checksum(body) and len(mark) == 8
    assert (BLINDING in text) == blinded and "84h/1h/0h" in text
    again = parse_descriptor(text)
    assert again.extended_key == ACCOUNT.extended_key and again.origin == ACCOUNT.origin
    assert again.master_blinding_key == (ACCOUNT.master_blinding_key if blinded else None)
    assert again.script(Branch.CHANGE, 3) == ACCOUNT.script(Branch.CHANGE, 3)


def test_checksum_when_computed_then_that_of_the_published_text() -> None:
    assert checksum(LWK.partition("#")[0]) == "2e4n992d"
    assert checksum(INNER) == "6wfk8hhv"


def test_descriptor_when_its_key_has_no_origin_then_read_but_not_written() -> None:
    bare = parse_descriptor(f"elwpkh({KEY}/<0;1>/*)")
    assert bare.origin is None and bare.extended_key == ACCOUNT.extended_key
    with pytest.raises(InvalidEncoding, match="unlock"):
        account_descriptor(bare)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "elwpkh",
        LWK[:-1] + "e",
        LWK[:-1],
        LWK.replace("#2e4n992d", "#"),
        LWK.replace("<0;1>", "<0;2>"),
        LWK.partition("#")[0].replace("/<0;1>/*", "/0/*"),
        LWK.partition("#")[0].replace("/<0;1>/*", "/<0;1>/*h"),
        LWK.partition("#")[0].replace(BLINDING, "00" * 32),
        LWK.partition("#")[0].replace(BLINDING, BLINDING[2:]),
        LWK.partition("#")[0].replace("elwpkh", "elwsh"),
        LWK.partition("#")[0].replace("slip77", "slip78"),
        LWK.partition("#")[0].replace(KEY, KEY[:-1] + "N"),
        INNER.replace("84'", "2147483648'"),
        INNER.replace("84'", "84''"),
        INNER + ")",
        "wpkh(" + INNER.partition("(")[2],
        "é" + INNER,
        INNER + " " * 1_000,
    ],
)
def test_descriptor_when_wrong_then_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidEncoding) as refused:
        parse_descriptor(text)
    assert BLINDING not in str(refused.value)


@given(st.text(max_size=200) | st.text("ctslip7elwpkh()[]/<>;*#'0123456789abcdef,", max_size=200))
def test_descriptor_when_it_is_any_text_then_refused_or_read(text: str) -> None:
    try:
        parse_descriptor(text)
    except InvalidEncoding:
        return


@given(position=st.integers(0, len(LWK) - 1), letter=st.characters(max_codepoint=127))
def test_descriptor_when_one_letter_is_changed_then_refused(position: int, letter: str) -> None:
    changed = LWK[:position] + letter + LWK[position + 1 :]
    if changed.strip() == LWK or changed[position].lower() == LWK[position]:
        return
    with pytest.raises(InvalidEncoding):
        parse_descriptor(changed)
