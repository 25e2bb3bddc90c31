"""Ridge regression of one layer: the matrix that makes of the slim model's inputs what the dense model makes of its own.

The ridge pulls towards the slice, so that inputs that say nothing change nothing.  Sums are centred where there is a
bias to take up what is left, kept in float64, and gathered in pieces; where fewer rows are there than inputs, or the inputs
are so many that their products would not fit, the same solution is had from the products of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Fit", "Regression"]

RIDGES = (1e-2, 1.0, 1e8)
"""Ridges that are tried, relative to the mean of the inputs' variances: the first, the others where rows are few.

The last leaves the slice as it is and chooses the bias.
"""

FEW = 10.0
"""Rows for every input, below which stronger ridges are tried, too."""

LARGEST = 4608
"""Inputs up to which their products are held: 170 MB in float64."""


_Solve = Callable[[float], tuple[Tensor, Tensor]]
"""Matrix and offset for a ridge."""


@dataclass(frozen=True, eq=False)
class Fit:
    """What came of a layer.

    Attributes:
        matrix: float64[groups, outputs, inputs].
        offset: float64[groups, outputs], to be added to the outputs.
        before: Squared error of the slice on rows that the fit has not seen, relative to the target's variance.
        after: The same of the fit.
    """

    matrix: Tensor
    offset: Tensor
    before: float
    after: float

    @property
    def better(self) -> bool:
        """The fit holds on unseen rows."""
        return self.after < self.before


@dataclass(eq=False)
class Regression:
    """Rows of a layer, gathered chunk by chunk.

    Attributes:
        start: The slice, float64[groups, outputs, inputs].
        constant: float64[groups, outputs] that the layer adds now.
        centred: There is a bias to be chosen.
        expected: Rows that will come, about.
    """

    start: Tensor
    constant: Tensor
    centred: bool
    expected: int
    seen: int = 0
    shift: tuple[Tensor, Tensor] | None = None
    squares: Tensor | None = None
    products: Tensor | None = None
    sums: tuple[Tensor, Tensor] | None = None
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    unseen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def by_rows(self) -> bool:
        """Products of rows are smaller than products of inputs."""
        inputs = self.start.shape[2]
        return len(self.start) == 1 and (self.expected < inputs or inputs > LARGEST)

    @property
    def most(self) -> int:
        """Rows that are worth gathering."""
        return min(self.expected, LARGEST) if self.by_rows else self.expected

    def add(self, x: Tensor, y: Tensor) -> None:
        """Rows to learn from, float[groups, n, inputs] and float[groups, n, outputs]."""
        self.seen += x.shape[1]
        if self.by_rows:
            self.kept.append((x.contiguous(), y.contiguous()))
            return
        if self.shift is None:  # products of what is left are exact where the mean is far from zero
            zero = 0.0 if not self.centred else 1.0
            self.shift = x.mean(1, keepdim=True) * zero, y.mean(1, keepdim=True) * zero
        x, y = x - self.shift[0], y - self.shift[1]
        squares, products = (x.mT @ x).double(), (x.mT @ y).double()
        sums = x.sum(1).double(), y.sum(1).double()
        if self.squares is None or self.products is None or self.sums is None:
            self.squares, self.products, self.sums = squares, products, sums
        else:
            self.squares += squares
            self.products += products
            self.sums = self.sums[0] + sums[0], self.sums[1] + sums[1]

    def hold_out(self, x: Tensor, y: Tensor) -> None:
        """Rows to judge by."""
        self.unseen.append((x, y))

    def fit(self) -> Fit:
        """Solve, and choose among the ridges by the rows that were held out."""
        few = self.seen < FEW * self.start.shape[2]
        judge = _Judge.of(self.unseen)
        before = judge.error(self.start, self.constant)
        best = Fit(self.start, self.constant, before, before)
        solve = self._by_rows() if self.by_rows else self._by_inputs()
        for ridge in RIDGES if few else RIDGES[:1]:
            matrix, offset = solve(ridge)
            error = judge.error(matrix, offset)
            if error < best.after:
                best = Fit(matrix, offset, before, error)
        return best

    def _by_inputs(self) -> _Solve:
        assert self.shift is not None and self.sums is not None
        assert self.squares is not None and self.products is not None
        squares, products = self.squares / self.seen, self.products / self.seen
        mean_x, mean_y = (s / self.seen for s in self.sums)
        if self.centred:
            squares = squares - mean_x[:, :, None] * mean_x[:, None, :]
            products = products - mean_x[:, :, None] * mean_y[:, None, :]
            mean_x, mean_y = mean_x + self.shift[0][:, 0].double(), mean_y + self.shift[1][:, 0].double()
        else:
            products = products - mean_x[:, :, None] * self.constant[:, None, :]
        missing = products - squares @ self.start.mT
        size = squares.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float64).tiny)

        def solve(ridge: float) -> tuple[Tensor, Tensor]:
            damped = squares.clone()
            damped.diagonal(dim1=1, dim2=2).add_(ridge * size[:, None])
            factor = torch.linalg.cholesky(damped)
            matrix = self.start + torch.cholesky_solve(missing, factor).mT
            if not self.centred:
                return matrix, self.constant
            return matrix, mean_y - (matrix @ mean_x[:, :, None])[:, :, 0]

        return solve

    def _by_rows(self) -> _Solve:
        x, y = (torch.cat([pair[k] for pair in self.kept], 1)[0].double() for k in (0, 1))
        start, constant = self.start[0], self.constant[0]
        mean_x, mean_y = (x.mean(0), y.mean(0)) if self.centred else (torch.zeros_like(x[0]), constant)
        x, y = x - mean_x, y - mean_y
        missing, products = y - x @ start.T, x @ x.T
        size = products.diagonal().sum().clamp_min(torch.finfo(torch.float64).tiny) / x.shape[1]

        def solve(ridge: float) -> tuple[Tensor, Tensor]:
            damped = products.clone()
            damped.diagonal().add_(ridge * size)
            matrix = start + (x.T @ torch.cholesky_solve(missing, torch.linalg.cholesky(damped))).T
            return matrix[None], (mean_y - matrix @ mean_x)[None] if self.centred else self.constant

        return solve


@dataclass(frozen=True, eq=False)
class _Judge:
    """Rows that were held out."""

    x: Tensor
    y: Tensor

    @staticmethod
    def of(rows: list[tuple[Tensor, Tensor]]) -> _Judge:
        return _Judge(*(torch.cat([pair[k] for pair in rows], 1) for k in (0, 1)))

    def error(self, matrix: Tensor, offset: Tensor) -> float:
        """Squared error relative to the target's variance."""
        got = self.x @ matrix.mT.to(self.x.dtype) + offset[:, None, :].to(self.x.dtype)
        spread = (self.y - self.y.mean(1, keepdim=True)).square().sum()
        return float((self.y - got).square().sum() / spread.clamp_min(torch.finfo(self.x.dtype).tiny))
