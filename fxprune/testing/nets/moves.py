"""Kinds of statements: joins, parts, positions, and what only moves numbers."""

from __future__ import annotations

from fxprune.testing.nets.kinds import Kind, kinds

__all__ = ["MOVES"]

ANY = "2345"

_JOINS = kinds(
    "joins",
    (
        ("cat", ANY, "torch.cat([{x}, {u}], {D})"),
        ("cat of three", ANY, "torch.cat([{x}, {x}.neg(), {u}], dim={D})"),
        ("cat swapped halves", ANY, ("{y}a, {y}b = {x}.chunk(2, {D})", "{y} = torch.cat([{y}b, {y}a], {D})")),
        ("concatenated relu", ANY, "F.relu(torch.cat([{x}, -{x}], {D}))"),
        ("stack and flatten", "345", "torch.stack([{x}, {o}], 1).flatten(1, 2)"),
        ("stack interleaved", "345", "torch.stack([{x}, {o}], 2).flatten(1, 2)"),
        ("stack last", "234", "torch.stack([{x}, {o}.tanh()], -1).sum(-1)"),
        ("stack rows", "23", "torch.stack(({x}, {x}.sin()), dim=1)"),
        (
            "stack softmax",
            "345",
            "(torch.stack([{x}, {o}], 1).softmax(1) * torch.stack([{o}, {x}], 1)).sum(1)",
        ),
        ("split and reorder", ANY, ("{y}p = {x}.split({parts}, {D})", "{y} = torch.cat({y}p[::-1], {D})")),
        ("split unequally", ANY, ("{y}, *_ = {x}.split({parts}, {D})",)),
        (
            "split evenly",
            ANY,
            ("{y}p = torch.split({x}, 3, dim={D})", "{y} = torch.cat([{y}p[-1].relu(), *{y}p[:-1]], {D})"),
        ),
        (
            "chunk uneven",
            ANY,
            ("{y}p = {x}.chunk(3, {D})", "{y} = torch.cat([p * k for k, p in enumerate({y}p, 1)], {D})"),
        ),
        (
            "tensor split",
            ANY,
            (
                "{y}p = torch.tensor_split({x}, 3, dim={D})",
                "{y} = torch.cat([{y}p[1], {y}p[0].tanh(), {y}p[2]], {D})",
            ),
        ),
        ("tensor split at", ANY, ("{y}a, {y} = {x}.tensor_split([{cut}], {D})",)),
        ("unbind and stack", ANY, "torch.stack({x}.unbind({D})[::-1], {D})"),
        ("unbind rows", "345", "torch.stack({x}.unflatten(1, ({a}, {B})).unbind(1)[::-1], 1).flatten(1, 2)"),
        ("unbind sum", "345", "sum({x}.unflatten(1, ({a}, {B})).unbind(1))"),
        (
            "partial update",
            "345",
            (
                "{y}a, {y}b = {x}.split([{cut}, {s} - {cut}], {d})",
                "{y} = torch.cat(({y}a.tanh(), {y}b), {d})",
            ),
        ),
        (
            "class token",
            "3",
            "torch.cat([self.{m}.expand({n}, -1, -1), {x}], 1)",
            "nn.Parameter(torch.randn(1, 1, {l}))",
        ),
        (
            "class token repeated",
            "3",
            "torch.cat([{x}, self.{m}.repeat({n}, 1, 1)], dim=1)",
            "nn.Parameter(torch.randn(1, 2, {l}))",
        ),
        ("position table", "3", "{x} + self.{m}", "nn.Parameter(torch.randn(1, {c}, {l}))"),
        (
            "position table cut",
            "3",
            "{x} + self.{m}[:, :{x}.shape[1]]",
            "nn.Parameter(torch.randn(1, {c} + 2, {l}))",
        ),
        (
            "position embedding",
            "3",
            "{x} + self.{m}(torch.arange({x}.shape[1], device={x}.device))",
            "nn.Embedding({c}, {l})",
        ),
        (
            "coordinate channels",
            "4",
            (
                "{y} = torch.linspace(-1, 1, {S3}, dtype={x}.dtype).expand({n}, 1, {S2}, -1)",
                "{y} = torch.cat([{x}, {y}], 1)",
            ),
        ),
        (
            "sinusoids",
            "3",
            (
                "{y} = torch.arange({S1}, dtype={x}.dtype)[:, None] * torch.arange(1, {L} + 1, dtype={x}.dtype)",
                "{y} = {x} + torch.sin({y} / 7)",
            ),
        ),
        (
            "condition on another",
            "34",
            "{x} + self.{m}({r}.flatten(2).mean(2)).view({n}, -1, *[1] * ({x}.dim() - 2))",
            "nn.Linear({rw}, {c})",
        ),
        (
            "film",
            "4",
            (
                "{y}s, {y}t = self.{m}({x}.mean((2, 3))).chunk(2, 1)",
                "{y} = {x} * (1 + {y}s[:, :, None, None]) + {y}t[..., None, None]",
            ),
            "nn.Linear({c}, 2 * {c})",
        ),
    ),
)

_PICKS = kinds(
    "picks",
    (
        ("slice", ANY, "{x}[{colons}{i}:{j}]"),
        ("slice from the end", ANY, "{x}[{colons}-{cut}:]"),
        ("slice with step", ANY, "{x}[{colons}::2]"),
        ("slice with step and start", ANY, "{x}[{colons}{i}::3]"),
        ("even and odd", ANY, "torch.cat([{x}[{colons}1::2], {x}[{colons}::2]], {D})"),
        ("slice last", "345", "{x}[..., {i0}:]"),
        ("select", "345", "{x}.select({D}, {i})"),
        ("select last", "345", "{x}[:, -1]"),
        ("narrow", ANY, "{x}.narrow({D}, {i}, {s} - {i})"),
        ("index by list", ANY, "{x}[{colons}{at}]"),
        ("index shuffled", ANY, "{x}[{colons}{order}]"),
        (
            "index select",
            ANY,
            "torch.index_select({x}, {D}, self.{m})",
            ("self.register_buffer('{m}', torch.tensor({order}))",),
        ),
        ("index select some", ANY, "{x}.index_select({D}, torch.tensor({some}))"),
        ("index by buffer", "345", "{x}[:, self.{m}]", ("self.register_buffer('{m}', torch.randperm({c}))",)),
        ("index two dimensions", "45", "{x}[:, [0, 1], [1, 0]]"),
        (
            "gather",
            "3",
            "torch.gather({x}, 1, self.{m}.expand({n}, -1, {L}))",
            ("self.register_buffer('{m}', torch.randint({c}, (1, 3, 1)))",),
        ),
        (
            "gather features",
            "3",
            "torch.gather({x}, 2, self.{m}.expand({n}, {S1}, -1))",
            ("self.register_buffer('{m}', torch.randint({l}, (1, 1, 4)))",),
        ),
        ("take along", "34", "torch.take_along_dim({x}, {x}.argsort({d}), {d})"),
        (
            "scatter add",
            "3",
            "torch.zeros_like({x}).scatter_add(1, self.{m}.expand({n}, -1, {L}), {x})",
            ("self.register_buffer('{m}', torch.randint({c}, (1, {c}, 1)))",),
        ),
        (
            "scatter constant",
            "3",
            "{x}.scatter(1, self.{m}.expand({n}, -1, {L}), {f})",
            ("self.register_buffer('{m}', torch.zeros(1, 1, 1, dtype=torch.long))",),
        ),
        ("index add", ANY, "{x}.index_add({d}, torch.tensor({order}), {x}.tanh())"),
        ("index copy", ANY, "{x}.index_copy({d}, torch.tensor([{i}]), {x}.narrow({d}, 0, 1))"),
        ("index fill", ANY, "{x}.index_fill({D}, torch.tensor({some}), {f})"),
        (
            "masked positions",
            ANY,
            "{x} * self.{m}",
            ("self.register_buffer('{m}', (torch.rand({tail}) > 0.3).to(torch.get_default_dtype()))",),
        ),
        ("write slice", ANY, ("{y} = {x}.clone()", "{y}[{colons}{i}:{j}] = {f}")),
        (
            "write part of another",
            ANY,
            ("{y} = {x}.clone()", "{y}[{colons}{i}:{j}] = {o}[{colons}{i}:{j}] * 2"),
        ),
        ("add to slice", ANY, ("{y} = {x} * 1", "{y}[{colons}{i}:{j}] += 0.5")),
        ("write into zeros", "345", ("{y} = torch.zeros_like({x})", "{y}[:, {i1}:] = {x}[:, {i1}:]")),
        ("new zeros", "345", ("{y} = {x}.new_zeros({n}, {two} * {c}, *{x}.shape[2:])", "{y}[:, :{C}] = {x}")),
        ("lower triangle", "34", "{x}.tril(1)"),
        (
            "shifted channels",
            "4",
            (
                "{y} = torch.zeros_like({x})",
                "{y}[:, :{a}, 1:] = {x}[:, :{a}, :-1]",
                "{y}[:, {a}:] = {x}[:, {a}:]",
            ),
        ),
        ("diagonal", "345", "{x}.diagonal(0, {d}, {e})"),
    ),
)

_MOVEMENT = kinds(
    "movement",
    (
        ("permute", "345", "{x}.permute({perm})"),
        ("permute contiguous", "345", "{x}.permute({perm}).contiguous()"),
        ("transpose", "345", "{x}.transpose({d}, {e})"),
        ("permute and merge", "345", "{x}.permute({perm}).flatten(1, 2)"),
        (
            "permute and back",
            "4",
            "self.{m}({x}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)",
            "nn.Linear({c}, {c})",
        ),
        ("flatten", "345", "{x}.flatten({fl})"),
        ("flatten all", "345", "{x}.flatten(1)"),
        ("flatten by view", "345", "{x}.reshape({n}, -1)"),
        ("tokens of pixels", "4", "{x}.flatten(2).transpose(1, 2)"),
        ("unflatten", "2345", "{x}.unflatten({d}, ({sd}, -1))"),
        ("rows", "345", "{x}.view({n}, {a}, {B}, *{x}.shape[2:]).tanh().reshape({n}, -1, *{x}.shape[2:])"),
        (
            "channel shuffle",
            "34",
            "{x}.view({n}, {a}, {B}, *{x}.shape[2:]).transpose(1, 2).reshape({n}, {C}, *{x}.shape[2:])",
        ),
        ("channel shuffle written", "345", "{x}.unflatten(1, ({a}, {B})).transpose(1, 2).flatten(1, 2)"),
        ("channel shuffle module", "4", "self.{m}({x})", "nn.ChannelShuffle({g})"),
        ("functional channel shuffle", "4", "F.channel_shuffle({x}, {g})"),
        ("three rows", "34", "{x}.unflatten(1, ({a}, {b1}, {b2})).transpose(1, 3).flatten(1, 3)"),
        (
            "two layouts",
            "345",
            "F.relu({x}.unflatten(1, ({a}, {B}))).flatten(1, 2).unflatten(1, ({b}, {a})).amax(2)",
        ),
        ("rows of rolled channels", "345", "{x}.unflatten(1, ({a}, {B})).roll(1, 2).flatten(1, 2)"),
        ("rows in another order", "345", "{x}.unflatten(1, ({a}, {B})).flip({d12}).flatten(1, 2)"),
        ("every second of a row", "345", "{x}.unflatten(1, ({a}, {B}))[:, :, ::2].flatten(1, 2)"),
        ("part of each row", "345", "{x}.unflatten(1, ({a}, {B}))[:, :, 1:].flatten(1, 2)"),
        ("one row", "345", "{x}.unflatten(1, ({a}, {B}))[:, 0]"),
        ("one of each row", "345", "{x}.unflatten(1, ({a}, {B}))[:, :, -1]"),
        ("pixel shuffle", "4", "F.pixel_shuffle({x}, 2)"),
        ("pixel unshuffle", "4", "F.pixel_unshuffle({x}, 2)"),
        (
            "space to depth by views",
            "4",
            (
                "{y} = {x}.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))",
                "{y} = {y}.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)",
            ),
        ),
        (
            "windows",
            "4",
            (
                "{y} = {x}.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 2, 4, 3, 5, 1)",
                "{y} = {y}.reshape({n}, -1, {C})",
            ),
        ),
        (
            "patches",
            "4",
            "{x}.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)",
        ),
        ("roll", ANY, "{x}.roll({two}, {D})"),
        ("roll two", "45", "torch.roll({x}, (1, -1), ({d}, {e}))"),
        ("flip", ANY, "{x}.flip({D})"),
        ("flip two", "45", "{x}.flip([{d}, {e}])"),
        ("rot90", "4", "torch.rot90({x}, 1, (2, 3))"),
        ("pad", ANY, "F.pad({x}, (1, 2))"),
        ("pad with a value", "345", "F.pad({x}, (1, 0, 0, 1), value={f})"),
        ("pad channels", "4", "F.pad({x}, (0, 0, 0, 0, {two}, 1))"),
        ("pad channels with a value", "4", "F.pad({x}, (0, 0, 0, 0, 1, 0), value={f})"),
        ("pad features negative", "345", "F.pad({x}, (-1, 1))"),
        ("reflect", "34", "F.pad({x}, (1, 1), mode='reflect')"),
        ("replicate", "34", "F.pad({x}, (1, 2), mode='replicate')"),
        ("circular", "34", "F.pad({x}, (1, 0), mode='circular')"),
        ("repeat channels", "4", "{x}.repeat(1, {two}, 1, 1)"),
        ("repeat features", "3", "{x}.repeat(1, 1, 2)"),
        ("tile", "23", "torch.tile({x}, ({two},))"),
        ("repeat interleave", ANY, "{x}.repeat_interleave({two}, dim={D})"),
        ("expand rows", "345", "{x}.unsqueeze(1).expand(-1, {two}, *[-1] * ({x}.dim() - 1)).flatten(1, 2)"),
        ("expand inner", "345", "{x}.unsqueeze(2).expand(-1, -1, 2, *[-1] * ({x}.dim() - 2)).flatten(1, 2)"),
        ("squeeze", "345", "{x}.mean({d}, keepdim=True).squeeze({d}) * 2"),
        ("unsqueeze", "23", "{x}.unsqueeze({du})"),
        (
            "merged with the batch",
            "4",
            "self.{m}({x}.reshape(-1, 1, {S2}, {S3})).view({n}, -1, {S2}, {S3})",
            "nn.Conv2d(1, 2, 3, padding=1)",
        ),
        (
            "tokens in the batch",
            "3",
            "self.{m}({x}.flatten(0, 1)).view({n}, {S1}, -1)",
            "nn.Linear({l}, {w})",
        ),
        ("movedim", "345", "{x}.movedim({d}, -1)"),
        ("meshed", "2", "{x}[:, :, None] * {x}[:, None, :]"),
        ("sums of a window", "3", "{x}.unfold(1, 2, 1).sum(-1)"),
    ),
)

MOVES: tuple[Kind, ...] = (*_JOINS, *_PICKS, *_MOVEMENT)
"""Joins, parts and movement."""
