"""Options of the whole suite."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import settings

# A process per core runs tests side by side: idle threads of kernels must not keep the other's core busy.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The same examples in every run, so that a failure on one machine is a failure on all; --soak looks further.
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=60)
settings.register_profile("soak", deadline=None, max_examples=2000)


@pytest.fixture(scope="session", autouse=True)
def typical_costs():
    """Ways to sum are chosen by the costs of a typical machine, whatever machine this is and however busy."""
    from fastpde.sums import calibration

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "path", lambda: None)
        calibration.costs.cache_clear()
        yield


@pytest.fixture(autouse=True)
def same_draws(request: pytest.FixtureRequest) -> None:
    """What a test draws from the generator of its module does not depend on the tests that ran before it."""
    if (generator := getattr(request.module, "RNG", None)) is not None:
        generator.bit_generator.state = np.random.default_rng(20260101).bit_generator.state


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long tests too, and more examples of the others")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("soak" if config.getoption("--soak") else "suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--soak"):
        for item in items:
            if item.get_closest_marker("soak"):  # keywords have the names of folders, too
                item.add_marker(pytest.mark.skip(reason="long; run with --soak"))
