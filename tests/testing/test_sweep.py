"""Random nets through everything: a few in every run, as many as wanted with ``--nets N``."""

from __future__ import annotations

import pytest

from fxprune.testing import check, random_net

FIRST = 1_000_000
"""Seeds of their own, that no sweep has been through."""

CHUNK = 2
"""Nets in one test: small, so that test processes share them evenly."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" not in metafunc.fixturenames:
        return
    count = metafunc.config.getoption("nets")
    metafunc.parametrize("seed", range(FIRST, FIRST + count, CHUNK))


def test_random_nets(seed: int) -> None:
    """No plan of any net is wrong, and nothing is raised but what says why it refuses."""
    for one in range(seed, seed + CHUNK):
        report = check(random_net(one), onnx=False)
        failed = [f for f in report.findings if f.verdict in ("wrong", "crashed")]
        assert not failed, f"seed {one}: {failed[0].stage}, {failed[0].how}: {failed[0].said}"


@pytest.mark.parametrize("failed", [2231, 1721, 2160, 2534])
def test_nets_that_failed_once(failed: int) -> None:
    """An einsum over one position in each of two rows, whose products no counter sees; and what the table says."""
    assert check(random_net(failed), onnx=False).verdict in ("right", "refused")
