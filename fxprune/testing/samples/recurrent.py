"""Samples of recurrent layers and their cells."""

from __future__ import annotations

from fxprune.testing.samples.base import aten as a
from fxprune.testing.samples.base import given as x
from fxprune.testing.samples.base import parameter as p

RECURRENT = (
    a(
        "lstm.input",
        *(p(5, 2, 3), [p(1, 2, 4), p(1, 2, 4)], [p(16, 3), p(16, 4), p(16), p(16)]),
        *(True, 1, 0.0, False, False, False),
        free="12 12 12 01 01 0 0",
    ),
    a(
        "lstm.input",
        *(p(2, 5, 3), [p(2, 2, 3), p(2, 2, 4)]),
        [p(16, 3), p(16, 3), p(3, 4), p(16, 3), p(16, 3), p(3, 4)],
        *(False, 1, 0.0, False, True, True),
        free="02 12 12 01 01 01 01 01 01",
    ),
    a(
        "gru.input",
        *(p(2, 5, 3), p(2, 2, 4), [p(12, 3), p(12, 4), p(12), p(12), p(12, 4), p(12, 4), p(12), p(12)]),
        *(True, 2, 0.0, False, False, True),
        free="02 12 01 01 0 0 01 01 0 0",
    ),
    a(
        "gru.input",
        *(x(5, 2, 3), p(1, 2, 4), [p(12, 3), p(12, 4)]),
        *(False, 1, 0.0, False, False, False),
        free="2 0 01",
    ),
    *(
        a(
            f"{n}.input",
            *(p(5, 2, 3), p(1, 2, 4), [p(4, 3), p(4, 4), p(4), p(4)]),
            *(True, 1, 0.0, False, False, False),
            free="12 12 01 01 0 0",
        )
        for n in ("rnn_tanh", "rnn_relu")
    ),
    a("lstm_cell", p(2, 3), [p(2, 4), p(2, 4)], p(16, 3), p(16, 4), p(16), p(16), free="01 01 01 01 01 0 0"),
    a("gru_cell", p(2, 3), p(2, 4), p(12, 3), p(12, 4), free="01 01 01 01"),
    *(
        a(n, p(2, 3), p(2, 4), p(4, 3), p(4, 4), p(4), p(4), free="01 01 01 01 0 0")
        for n in ("rnn_tanh_cell", "rnn_relu_cell")
    ),
)

# Dimensions of equal size: whatever is read the wrong way round fits, and only numbers tell.
