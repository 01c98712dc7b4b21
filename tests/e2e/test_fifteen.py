"""The largest federation, fifteen members of whom eleven sign, as fifteen processes."""

import pytest

from tests.e2e.local import Local

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

UP = ("-n", "15", "-k", "11", "--block-time", "1")
RATE, SECONDS = 5, 4


def test_fifteen_members_when_founded_then_all_linked_and_payments_are_final(local: Local) -> None:
    status = local.run("status", "--json").json
    assert (status["online"], status["n"], status["k"]) == (15, 15, 11)
    for member in status["members"]:
        assert member["info"]["mode"] == "VOTING"
        assert all(link["connected"] for link in member["info"]["members"])
    words = ("load", "--tps", str(RATE), "--for", str(SECONDS), "--drain", "60", "--json")
    report = local.run(*words).json
    assert report["stuck"] == [] and report["chains_agree"]
    assert report["final"] == RATE * SECONDS and len(report["members"]) == 15
    local.wait_agreed()
    signers = local.signers(local.height(), local.height())
    assert all(len(each) == 11 for each in signers.values())
