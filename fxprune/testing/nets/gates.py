"""Kinds of statements: gates of every make."""

from __future__ import annotations

from fxprune.testing.nets.kinds import Kind, kinds

__all__ = ["GATES"]

GATES: tuple[Kind, ...] = kinds(
    "gates",
    (
        (
            "squeeze and excitation",
            "4",
            "{x} * torch.sigmoid(self.{m}_up(F.relu(self.{m}_down({x}.mean((2, 3), keepdim=True)))))",
            ("self.{m}_down = nn.Conv2d({c}, 4, 1)", "self.{m}_up = nn.Conv2d(4, {c}, 1)"),
        ),
        (
            "squeeze and excitation of features",
            "45",
            (
                "{y} = self.{m}({x}.flatten(2).mean(2))",
                "{y} = {x} * {y}.view({n}, {C}, *[1] * ({x}.dim() - 2))",
            ),
            "nn.Sequential(nn.Linear({c}, 5), nn.SiLU(), nn.Linear(5, {c}), nn.Hardsigmoid())",
        ),
        (
            "efficient channel attention",
            "4",
            "{x} * self.{m}({x}.mean((2, 3)).unsqueeze(1)).sigmoid().transpose(1, 2).unsqueeze(-1)",
            "nn.Conv1d(1, 1, 3, padding=1)",
        ),
        (
            "spatial gate",
            "4",
            "{x} * self.{m}(torch.stack([{x}.mean(1), {x}.amax(1)], 1)).sigmoid()",
            "nn.Conv2d(2, 1, 3, padding=1)",
        ),
        ("gated linear unit", "234", "F.glu(self.{m}({x}), -1)", "nn.Linear({l}, 2 * {w})"),
        (
            "swiglu",
            "234",
            (
                "{y}a, {y}b = self.{m}_in({x}).chunk(2, dim=-1)",
                "{y} = {x} + self.{m}_out(F.silu({y}a) * {y}b)",
            ),
            ("self.{m}_in = nn.Linear({l}, 2 * {w}, bias=False)", "self.{m}_out = nn.Linear({w}, {l})"),
        ),
        (
            "gated projections",
            "234",
            "self.{m}_c(F.gelu(self.{m}_a({x})) * self.{m}_b({x}))",
            (
                "self.{m}_a = nn.Linear({l}, {w})",
                "self.{m}_b = nn.Linear({l}, {w}, bias=False)",
                "self.{m}_c = nn.Linear({w}, {l})",
            ),
        ),
        (
            "gated convolution",
            "4",
            ("{y}a, {y}b = self.{m}({x}).split({w}, 1)", "{y} = {y}a.tanh() * {y}b.sigmoid()"),
            "nn.Conv2d({c}, 2 * {w}, 3, padding=1)",
        ),
        (
            "simple gate",
            "4",
            ("{y}a, {y}b = self.{m}({x}).chunk(2, dim=1)", "{y} = {x} + self.{m}_o({y}a * {y}b)"),
            ("self.{m} = nn.Conv2d({c}, 2 * {w}, 1)", "self.{m}_o = nn.Conv2d({w}, {c}, 1)"),
        ),
        (
            "highway",
            "23",
            ("{y}t = self.{m}_t({x}).sigmoid()", "{y} = {y}t * self.{m}({x}).relu() + (1 - {y}t) * {x}"),
            ("self.{m} = nn.Linear({l}, {l})", "self.{m}_t = nn.Linear({l}, {l})"),
        ),
        (
            "split attention",
            "4",
            (
                "{y}r = self.{m}({x}).view({n}, 2, {c}, {S2}, {S3})",
                "{y}g = self.{m}_g({y}r.sum(1).mean((2, 3))).view({n}, 2, {c}).softmax(1)",
                "{y} = ({y}r * {y}g[..., None, None]).sum(1)",
            ),
            ("self.{m} = nn.Conv2d({c}, 2 * {c}, 1)", "self.{m}_g = nn.Linear({c}, 2 * {c})"),
        ),
        (
            "selective kernels",
            "4",
            (
                "{y}a, {y}b = self.{m}_a({x}), self.{m}_b({x})",
                "{y}g = torch.sigmoid(self.{m}_g(({y}a + {y}b).mean((2, 3), keepdim=True)))",
                "{y} = {y}a * {y}g + {y}b * (1 - {y}g)",
            ),
            (
                "self.{m}_a = nn.Conv2d({c}, {w}, 1)",
                "self.{m}_b = nn.Conv2d({c}, {w}, 3, padding=1)",
                "self.{m}_g = nn.Conv2d({w}, {w}, 1)",
            ),
        ),
        (
            "token mixing",
            "3",
            "{x} + self.{m}({x}.mT).mT",
            "nn.Sequential(nn.Linear({c}, {w}), nn.GELU(), nn.Linear({w}, {c}))",
        ),
        (
            "spatial gating unit",
            "3",
            (
                "{y}u, {y}v = self.{m}({x}).chunk(2, -1)",
                "{y} = {y}u * self.{m}_s({y}v.transpose(1, 2)).transpose(1, 2)",
            ),
            ("self.{m} = nn.Linear({l}, 2 * {w})", "self.{m}_s = nn.Linear({c}, {c})"),
        ),
        (
            "memory bank",
            "3",
            "(({x} @ self.{m}.t()).softmax(-1)) @ self.{m}",
            "nn.Parameter(torch.randn({w}, {l}) / 2)",
        ),
        (
            "conditional kernels",
            "4",
            (
                "{y}g = self.{m}_g({x}.mean((2, 3))).softmax(1)",
                "{y} = torch.einsum('bk,koc,bchw->bohw', {y}g, self.{m}, {x})",
            ),
            (
                "self.{m}_g = nn.Linear({c}, 3)",
                "self.{m} = nn.Parameter(torch.randn(3, {w}, {c}) / {c} ** 0.5)",
            ),
        ),
    ),
)
