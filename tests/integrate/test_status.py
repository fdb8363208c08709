"""The outcomes and their texts."""

import json

import pytest

from fastpde.integrate import Status

SUCCESSES = {Status.COMPLETED, Status.EVENT, Status.STEADY_STATE, Status.BLOW_UP, Status.COLLAPSED}
REMEDIES = {
    Status.MAX_STEPS: "Raise max_steps",
    Status.STEP_TOO_SMALL: "add the event BlowUp",
    Status.NOT_FINITE: "Take a smaller step",
    Status.NOT_CONVERGED: "raise max_iter or tol",
    Status.INTERRUPTED: "continues exactly",
}


def test_success():
    assert {status for status in Status if status.success} == SUCCESSES
    assert set(REMEDIES) == set(Status) - SUCCESSES


@pytest.mark.parametrize("status", list(Status))
def test_texts(status):
    assert status.message.endswith(".")
    assert REMEDIES.get(status, "") in status.message
    assert Status(json.loads(json.dumps(status.value))) is status
