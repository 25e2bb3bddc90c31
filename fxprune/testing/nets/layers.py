"""Kinds of statements: layers with parameters, and normalisation."""

from __future__ import annotations

from fxprune.testing.nets.kinds import Kind, kinds

__all__ = ["LAYERS"]

CALL = "self.{m}({x})"
"""Most layers are called on one variable."""

_CONVOLUTIONS = kinds(
    "convolutions",
    (
        ("conv2d", "4", CALL, "nn.Conv2d({c}, {w}, {k}, padding={kp}, bias={bias})"),
        ("conv2d 1x1", "4", CALL, "nn.Conv2d({c}, {w}, 1)"),
        ("conv2d strided", "4", CALL, "nn.Conv2d({c}, {w}, 3, stride=2, padding=1)"),
        ("conv2d dilated", "4", CALL, "nn.Conv2d({c}, {w}, 3, padding=2, dilation=2)"),
        ("conv2d valid", "4", CALL, "nn.Conv2d({c}, {w}, 2)"),
        ("conv2d same", "4", CALL, "nn.Conv2d({c}, {w}, (3, 2), padding='same')"),
        ("conv2d asymmetric", "4", CALL, "nn.Conv2d({c}, {w}, (1, 3), padding=(0, 1))"),
        ("conv2d padding mode", "4", CALL, "nn.Conv2d({c}, {w}, 3, padding=1, padding_mode='{mode}')"),
        ("conv2d grouped", "4", CALL, "nn.Conv2d({c}, {wg}, {k}, padding={kp}, groups={g})"),
        ("conv2d depthwise", "4", CALL, "nn.Conv2d({c}, {c}, 3, padding=1, groups={c}, bias={bias})"),
        ("conv2d depthwise multiplied", "4", CALL, "nn.Conv2d({c}, {two} * {c}, 3, padding=1, groups={c})"),
        (
            "conv2d grouped padding mode",
            "4",
            CALL,
            "nn.Conv2d({c}, {wg}, 3, padding=1, groups={g}, padding_mode='{mode}')",
        ),
        ("conv1d", "3", CALL, "nn.Conv1d({c}, {w}, {k}, padding={kp}, bias={bias})"),
        ("conv1d causal", "3", "self.{m}(F.pad({x}, (2, 0)))", "nn.Conv1d({c}, {w}, 3)"),
        ("conv1d grouped", "3", CALL, "nn.Conv1d({c}, {wg}, {k}, padding={kp}, groups={g})"),
        ("conv1d depthwise", "3", CALL, "nn.Conv1d({c}, {c}, 3, padding=1, groups={c})"),
        ("conv1d padding mode", "3", CALL, "nn.Conv1d({c}, {w}, 3, padding=1, padding_mode='{mode}')"),
        ("conv1d over features", "3", "self.{m}({x}.mT).mT", "nn.Conv1d({l}, {w}, 1)"),
        ("conv3d", "5", CALL, "nn.Conv3d({c}, {w}, {k}, padding={kp})"),
        ("conv3d grouped", "5", CALL, "nn.Conv3d({c}, {wg}, 3, padding=1, groups={g})"),
        ("conv3d depthwise", "5", CALL, "nn.Conv3d({c}, {c}, 3, padding=1, groups={c})"),
        ("conv3d factored", "5", CALL, "nn.Conv3d({c}, {w}, (1, 3, 3), padding=(0, 1, 1))"),
        ("transposed1d", "3", CALL, "nn.ConvTranspose1d({c}, {w}, 3, padding=1)"),
        ("transposed2d", "4", CALL, "nn.ConvTranspose2d({c}, {w}, 2, stride=2)"),
        (
            "transposed2d output padding",
            "4",
            CALL,
            "nn.ConvTranspose2d({c}, {w}, 3, stride=2, padding=1, output_padding=1, bias={bias})",
        ),
        ("transposed2d grouped", "4", CALL, "nn.ConvTranspose2d({c}, {wg}, 3, padding=1, groups={g})"),
        ("transposed2d depthwise", "4", CALL, "nn.ConvTranspose2d({c}, {c}, 3, padding=1, groups={c})"),
        ("transposed3d", "5", CALL, "nn.ConvTranspose3d({c}, {w}, 3, padding=1)"),
        (
            "separable",
            "4",
            CALL,
            "nn.Sequential(nn.Conv2d({c}, {c}, 3, padding=1, groups={c}), nn.Conv2d({c}, {w}, 1))",
        ),
        (
            "inverted residual",
            "4",
            "{x} + self.{m}({x})",
            "nn.Sequential(nn.Conv2d({c}, {w}, 1), nn.BatchNorm2d({w}), nn.ReLU6(), "
            "nn.Conv2d({w}, {w}, 3, padding=1, groups={w}), nn.Conv2d({w}, {c}, 1), nn.BatchNorm2d({c}))",
        ),
        (
            "residual",
            "4",
            "F.relu({x} + self.{m}({x}))",
            "nn.Sequential(nn.Conv2d({c}, {w}, 3, padding=1), nn.BatchNorm2d({w}), nn.ReLU(), "
            "nn.Conv2d({w}, {c}, 3, padding=1))",
        ),
        (
            "dense connection",
            "4",
            "torch.cat([{x}, self.{m}({x})], 1)",
            "nn.Sequential(nn.BatchNorm2d({c}), nn.ReLU(), nn.Conv2d({c}, {w}, 3, padding=1))",
        ),
        (
            "functional conv2d",
            "4",
            "F.conv2d({x}, self.{m}, padding='same')",
            "nn.Parameter(torch.randn({w}, {c}, 3, 3) / 3)",
        ),
        (
            "functional depthwise",
            "4",
            "F.conv2d({x}, self.{m}, padding=1, groups={C})",
            "nn.Parameter(torch.randn({c}, 1, 3, 3) / 3)",
        ),
        (
            "blur by a repeated filter",
            "4",
            "F.conv2d({x}, self.{m}.repeat({C}, 1, 1, 1), padding=1, groups={C})",
            ("self.register_buffer('{m}', torch.tensor([[[[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]]]) / 16)",),
        ),
        (
            "blur by an expanded filter",
            "4",
            "F.conv2d({x}, self.{m}.expand({x}.shape[1], 1, 3, 3), padding=1, groups={x}.shape[1])",
            ("self.register_buffer('{m}', torch.ones(1, 1, 3, 3) / 9)",),
        ),
        (
            "unfold and product",
            "4",
            (
                "{y} = F.unfold({x}, 3, padding=1)",
                "{y} = self.{m}({y}.mT).mT.unflatten(2, ({x}.shape[2], {x}.shape[3]))",
            ),
            "nn.Linear({c} * 9, {w})",
        ),
        (
            "kernels from features",
            "34",
            (
                "{y} = self.{m}({x}.flatten(2).mean(2)).sigmoid()",
                "{y} = {x} * {y}[(...,) + (None,) * ({x}.dim() - 2)]",
            ),
            "nn.Linear({c}, {c})",
        ),
        (
            "conv2d from tokens",
            "3",
            "self.{m}({x}.mT.unsqueeze(-1)).squeeze(-1).mT",
            "nn.Conv2d({l}, {w}, (3, 1), padding=(1, 0))",
        ),
    ),
    weight=1.6,
)

_PRODUCTS = kinds(
    "products",
    (
        ("linear", "23456", CALL, "nn.Linear({l}, {w}, bias={bias})"),
        ("linear over channels", "345", "self.{m}({x}.movedim(1, -1)).movedim(-1, 1)", "nn.Linear({c}, {w})"),
        (
            "mlp",
            "234",
            "{x} + self.{m}({x})",
            "nn.Sequential(nn.Linear({l}, 2 * {l}), nn.GELU(), nn.Linear(2 * {l}, {l}))",
        ),
        ("bilinear", "23", "self.{m}({x}, {x}.sin())", "nn.Bilinear({l}, {l}, {w})"),
        ("bilinear of two", "23", "self.{m}({x}, {o})", "nn.Bilinear({l}, {l}, {w})"),
        (
            "functional linear",
            "234",
            "F.linear({x}, self.{m})",
            "nn.Parameter(torch.randn({w}, {l}) / {l} ** 0.5)",
        ),
        (
            "matmul from the right",
            "234",
            "{x} @ self.{m}",
            "nn.Parameter(torch.randn({l}, {w}) / {l} ** 0.5)",
        ),
        (
            "matmul from the left",
            "3",
            "torch.matmul(self.{m}, {x})",
            "nn.Parameter(torch.randn({w}, {c}) / {c} ** 0.5)",
        ),
        (
            "matmul transposed",
            "34",
            "{x} @ self.{m}.transpose(0, 1) + self.{m}.sum(1)",
            "nn.Parameter(torch.randn({w}, {l}) / {l} ** 0.5)",
        ),
        (
            "baddbmm",
            "3",
            "torch.baddbmm({x}, {x}, self.{m}.expand({n}, -1, -1), alpha=0.5)",
            "nn.Parameter(torch.randn(1, {l}, {l}) / {l} ** 0.5)",
        ),
        (
            "einsum",
            "3",
            "torch.einsum('bnd,de->bne', {x}, self.{m})",
            "nn.Parameter(torch.randn({l}, {w}) / {l} ** 0.5)",
        ),
        (
            "einsum over channels",
            "4",
            "torch.einsum('bchw,oc->bohw', {x}, self.{m})",
            "nn.Parameter(torch.randn({w}, {c}) / {c} ** 0.5)",
        ),
        (
            "einsum with ellipsis",
            "234",
            "torch.einsum('...d,de->...e', {x}, self.{m})",
            "nn.Parameter(torch.randn({l}, {w}) / {l} ** 0.5)",
        ),
        (
            "einsum ellipsis first",
            "34",
            "torch.einsum('oc,bc...->bo...', self.{m}, {x})",
            "nn.Parameter(torch.randn({w}, {c}) / {c} ** 0.5)",
        ),
        (
            "einsum diagonal scale",
            "3",
            "torch.einsum('bnd,d->bnd', {x}, self.{m})",
            "nn.Parameter(torch.randn({l}))",
        ),
        ("einsum outer", "2", "torch.einsum('bi,bj->bij', {x}, {x}.tanh())"),
        (
            "einsum per head",
            "3",
            "torch.einsum('bnhd,hde->bnhe', {x}.unflatten(2, ({p}, {Q})), self.{m}).flatten(2)",
            "nn.Parameter(torch.randn({p}, {q}, {q}) / {q} ** 0.5)",
        ),
        (
            "tensordot",
            "34",
            "torch.tensordot({x}, self.{m}, dims=([-1], [0]))",
            "nn.Parameter(torch.randn({l}, {w}) / {l} ** 0.5)",
        ),
        ("gram", "3", "{x} @ {x}.mT / {L}"),
        ("gram of channels", "4", "({x}.flatten(2) @ {x}.flatten(2).transpose(1, 2)) / ({S2} * {S3})"),
        (
            "low rank",
            "234",
            "F.linear({x}, self.{m}_p @ self.{m}_r)",
            (
                "self.{m}_p = nn.Parameter(torch.randn({w}, 3))",
                "self.{m}_r = nn.Parameter(torch.randn(3, {l}) / {l})",
            ),
        ),
        (
            "low rank added",
            "234",
            "self.{m}({x}) + self.{m}_up(self.{m}_down({x})) * 0.5",
            (
                "self.{m} = nn.Linear({l}, {w})",
                "self.{m}_down = nn.Linear({l}, 4, bias=False)",
                "self.{m}_up = nn.Linear(4, {w}, bias=False)",
            ),
        ),
        (
            "low rank kernel",
            "4",
            "F.conv2d({x}, (self.{m}_p @ self.{m}_r).view({w}, {c}, 1, 1))",
            (
                "self.{m}_p = nn.Parameter(torch.randn({w}, 3))",
                "self.{m}_r = nn.Parameter(torch.randn(3, {c}) / 3)",
            ),
        ),
        (
            "tied transposed",
            "234",
            "F.linear(torch.tanh(F.linear({x}, self.{m})), self.{m}.t())",
            "nn.Parameter(torch.randn({w}, {l}) / {l} ** 0.5)",
        ),
        ("tied convolutions", "4", "self.{m}(F.relu(self.{m}({x})))", "nn.Conv2d({c}, {c}, 3, padding=1)"),
        (
            "tied encoder and decoder",
            "4",
            "F.conv_transpose2d(F.conv2d({x}, self.{m}).relu(), self.{m})",
            "nn.Parameter(torch.randn({w}, {c}, 2, 2) / {c} ** 0.5)",
        ),
        ("one layer for two", "234", "self.{m}({x}) * self.{m}({o})", "nn.Linear({l}, {w})"),
        ("one convolution for two", "4", "self.{m}({x}) + self.{m}({o}).tanh()", "nn.Conv2d({c}, {w}, 1)"),
        (
            "weight norm",
            "4",
            CALL,
            "nn.utils.parametrizations.weight_norm(nn.Conv2d({c}, {w}, 3, padding=1))",
        ),
        ("weight norm of linear", "23", CALL, "nn.utils.parametrizations.weight_norm(nn.Linear({l}, {w}))"),
        ("spectral norm", "23", CALL, "nn.utils.parametrizations.spectral_norm(nn.Linear({l}, {w}))"),
        (
            "weight standardisation",
            "4",
            (
                "{y}w = self.{m}.weight",
                "{y}w = ({y}w - {y}w.mean((1, 2, 3), keepdim=True)) / ({y}w.std((1, 2, 3), keepdim=True) + 1e-4)",
                "{y} = F.conv2d({x}, {y}w, self.{m}.bias, padding=1)",
            ),
            "nn.Conv2d({c}, {w}, 3, padding=1)",
        ),
        (
            "mixture of experts",
            "23",
            (
                "{y}g = self.{m}_gate({x}).softmax(-1)",
                "{y} = torch.stack([e({x}) for e in self.{m}], -1)",
                "{y} = ({y} * {y}g.unsqueeze(-2)).sum(-1)",
            ),
            (
                "self.{m}_gate = nn.Linear({l}, 2)",
                "self.{m} = nn.ModuleList(nn.Sequential(nn.Linear({l}, {w}), nn.GELU(), nn.Linear({w}, {l})) "
                "for _ in range(2))",
            ),
        ),
        (
            "batched experts",
            "3",
            (
                "{y} = torch.einsum('bnd,edf->ebnf', {x}, self.{m}_in).relu()",
                "{y} = torch.einsum('ebnf,efd->ebnd', {y}, self.{m}_out).sum(0)",
            ),
            (
                "self.{m}_in = nn.Parameter(torch.randn(2, {l}, {w}) / {l} ** 0.5)",
                "self.{m}_out = nn.Parameter(torch.randn(2, {w}, {l}) / {w} ** 0.5)",
            ),
        ),
    ),
    weight=1.2,
)

_RECURRENT = kinds(
    "recurrent",
    (
        ("lstm", "3", "self.{m}({x})[0]", "nn.LSTM({l}, {w}, batch_first=True)"),
        (
            "lstm states",
            "3",
            ("_, ({y}h, {y}c) = self.{m}({x})", "{y} = {y}h[-1] + {y}c[0]"),
            "nn.LSTM({l}, {w}, batch_first=True)",
        ),
        (
            "lstm deep",
            "3",
            "self.{m}({x})[0]",
            "nn.LSTM({l}, {w}, num_layers=2, batch_first=True, bias={bias})",
        ),
        (
            "lstm both ways",
            "3",
            "self.{m}({x})[0]",
            "nn.LSTM({l}, {w}, bidirectional=True, batch_first=True)",
        ),
        ("lstm projected", "3", "self.{m}({x})[0]", "nn.LSTM({l}, {w}, proj_size=3, batch_first=True)"),
        ("lstm time first", "3", "self.{m}({x}.transpose(0, 1))[0].transpose(0, 1)", "nn.LSTM({l}, {w})"),
        ("gru", "3", "self.{m}({x})[0]", "nn.GRU({l}, {w}, batch_first=True)"),
        ("gru last", "3", "self.{m}({x})[1][-1]", "nn.GRU({l}, {w}, num_layers=2, batch_first=True)"),
        ("gru both ways", "3", "self.{m}({x})[0]", "nn.GRU({l}, {w}, bidirectional=True, batch_first=True)"),
        ("rnn", "3", "self.{m}({x})[0]", "nn.RNN({l}, {w}, batch_first=True)"),
        ("lstm cell", "2", ("{y}, {y}c = self.{m}({x})", "{y} = {y} * {y}c"), "nn.LSTMCell({l}, {w})"),
        ("gru cell", "2", "self.{m}({x})", "nn.GRUCell({l}, {w})"),
        (
            "gru cell over time",
            "3",
            (
                "{y} = {x}.new_zeros({n}, {w})",
                "for {y}t in {x}.unbind(1):",
                "    {y} = self.{m}({y}t, {y})",
            ),
            "nn.GRUCell({l}, {w})",
        ),
    ),
    weight=0.6,
)

_NORMS = kinds(
    "norms",
    (
        ("batch norm 1d", "23", CALL, "nn.BatchNorm1d({c}, affine={flag})"),
        ("batch norm 2d", "4", CALL, "nn.BatchNorm2d({c}, affine={flag})"),
        ("batch norm 3d", "5", CALL, "nn.BatchNorm3d({c})"),
        ("batch norm without statistics", "4", CALL, "nn.BatchNorm2d({c}, track_running_stats=False)"),
        ("layer norm", "2345", CALL, "nn.LayerNorm({l}, elementwise_affine={flag})"),
        ("layer norm of two", "34", CALL, "nn.LayerNorm({tail})"),
        (
            "layer norm over channels",
            "345",
            "self.{m}({x}.movedim(1, -1)).movedim(-1, 1)",
            "nn.LayerNorm({c})",
        ),
        ("functional layer norm", "2345", "F.layer_norm({x}, ({L},))"),
        ("functional layer norm of all", "34", "F.layer_norm({x}, {x}.shape[1:])"),
        ("layer norm in rows", "3", "F.layer_norm({x}.unflatten(2, ({p}, {Q})), ({q},)).flatten(2)"),
        (
            "layer norm across rows",
            "3",
            "F.layer_norm({x}.unflatten(2, ({p}, {Q})).mT, ({p},)).mT.flatten(2)",
        ),
        ("group norm", "345", CALL, "nn.GroupNorm({g}, {c}, affine={flag})"),
        ("group norm of one", "345", CALL, "nn.GroupNorm(1, {c})"),
        ("functional group norm", "345", "F.group_norm({x}, {g})"),
        ("two group norms", "345", "F.group_norm(self.{m}({x}), {a})", "nn.GroupNorm({g}, {c})"),
        ("instance norm", "4", CALL, "nn.InstanceNorm2d({c}, affine={flag})"),
        ("instance norm 1d", "3", CALL, "nn.InstanceNorm1d({c}, affine=True)"),
        ("functional instance norm", "34", "F.instance_norm({x})"),
        ("rms norm", "2345", CALL, "nn.RMSNorm({l}, eps=1e-6)"),
        ("functional rms norm", "23", "F.rms_norm({x}, ({l},))"),
        (
            "own rms norm",
            "234",
            "{x} * torch.rsqrt({x}.pow(2).mean(-1, keepdim=True) + 1e-6) * self.{m}",
            "nn.Parameter(torch.ones({l}))",
        ),
        ("local response norm", "45", CALL, "nn.LocalResponseNorm(3)"),
        ("normalise", "2345", "F.normalize({x}, dim={D})"),
        (
            "standardise",
            "2345",
            "({x} - {x}.mean({D}, keepdim=True)) / ({x}.std({D}, keepdim=True, unbiased={flag}) + 0.1)",
        ),
        (
            "response norm over pixels",
            "4",
            (
                "{y} = {x}.norm(dim=(2, 3), keepdim=True)",
                "{y} = self.{m} * ({x} * {y} / ({y}.mean(1, keepdim=True) + 1e-6)) + {x}",
            ),
            "nn.Parameter(torch.randn(1, {c}, 1, 1))",
        ),
        (
            "scale and shift",
            "345",
            "{x} * self.{m}.view(1, -1, *[1] * ({x}.dim() - 2))",
            "nn.Parameter(torch.randn({c}))",
        ),
        ("layer scale", "234", "{x} * self.{m}", "nn.Parameter(torch.full(({l},), 0.1))"),
        ("shift", "4", "{x} + self.{m}[:, None, None]", "nn.Parameter(torch.randn({c}))"),
        ("prelu", "234", CALL, "nn.PReLU({c})"),
    ),
)

LAYERS: tuple[Kind, ...] = (*_CONVOLUTIONS, *_PRODUCTS, *_RECURRENT, *_NORMS)
"""Layers and norms."""
