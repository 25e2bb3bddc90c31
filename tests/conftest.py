"""What all tests share: one thread, fixed seeds, no display, and the optional data beside the checkout."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: it reads these once.  Two test processes of one thread each beat one process of
# two threads, and sums that are always added in the same order make figures repeatable.
for _name, _value in (("OMP_NUM_THREADS", "1"), ("MKL_NUM_THREADS", "1"), ("MPLBACKEND", "Agg")):
    os.environ.setdefault(_name, _value)

import hypothesis
import numpy as np
import pytest
import torch

# Random networks are drawn the same way every time: a failure in the complete run can be repeated.
hypothesis.settings.register_profile(
    "fxprune", deadline=None, derandomize=True, max_examples=25, print_blob=True
)
hypothesis.settings.load_profile("fxprune")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--nets", type=int, default=16, metavar="N", help="random nets to go through (default: 16)"
    )


@pytest.fixture(autouse=True)
def repeatable() -> Iterator[None]:
    """Seed every generator, and give back torch's default dtype and grad mode if a test changed them."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  libraries draw from the global generator
    torch.manual_seed(0)
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    yield
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)


@pytest.fixture(scope="session", autouse=True)
def signals() -> None:
    """As at a terminal: what a shell starts in the background is born deaf to Ctrl-C and to a closed line."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with CIFAR-10 and trained weights beside the checkout; the test is skipped without it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "weights").is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder
