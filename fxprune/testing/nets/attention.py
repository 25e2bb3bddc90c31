"""Kinds of statements: attention of every make."""

from __future__ import annotations

from fxprune.testing.nets.kinds import Kind, kinds

__all__ = ["ATTENTION"]

QKV = (
    "self.{m}_q = nn.Linear({l}, {h} * {hd})",
    "self.{m}_k = nn.Linear({l}, {h} * {hd}, bias={bias})",
    "self.{m}_v = nn.Linear({l}, {h} * {hd})",
    "self.{m}_o = nn.Linear({h} * {hd}, {l})",
)
"""Separate projections of tokens into heads."""

HEADS = (
    "{y}q = self.{m}_q({x}).view({n}, {S1}, {h}, -1).transpose(1, 2)",
    "{y}k = self.{m}_k({x}).view({n}, {S1}, {h}, {hd}).transpose(1, 2)",
    "{y}v = self.{m}_v({x}).unflatten(2, ({h}, -1)).transpose(1, 2)",
)
MERGE = "{y} = {x} + self.{m}_o({y}.transpose(1, 2).flatten(2))"
FUSED = (
    "self.{m}_qkv = nn.Linear({l}, 3 * {h} * {hd}, bias={bias})",
    "self.{m}_o = nn.Linear({h} * {hd}, {l})",
)

ATTENTION: tuple[Kind, ...] = kinds(
    "attention",
    (
        ("attention", "3", (*HEADS, "{y} = ({y}q @ {y}k.mT / {hd} ** 0.5).softmax(-1) @ {y}v", MERGE), QKV),
        (
            "attention scaled by its width",
            "3",
            (
                *HEADS,
                "{y} = ({y}q @ {y}k.transpose(-2, -1) / math.sqrt({y}q.size(-1))).softmax(-1) @ {y}v",
                MERGE,
            ),
            QKV,
        ),
        ("sdpa", "3", (*HEADS, "{y} = F.scaled_dot_product_attention({y}q, {y}k, {y}v)", MERGE), QKV),
        (
            "sdpa causal",
            "3",
            (*HEADS, "{y} = F.scaled_dot_product_attention({y}q, {y}k, {y}v, is_causal=True)", MERGE),
            QKV,
        ),
        (
            "sdpa masked",
            "3",
            (*HEADS, "{y} = F.scaled_dot_product_attention({y}q, {y}k, {y}v, attn_mask=self.{m}_b)", MERGE),
            (*QKV, "self.{m}_b = nn.Parameter(torch.randn({h}, {c}, {c}))"),
        ),
        (
            "sdpa with a bool mask",
            "3",
            (*HEADS, "{y} = F.scaled_dot_product_attention({y}q, {y}k, {y}v, attn_mask=self.{m}_b)", MERGE),
            (*QKV, "self.register_buffer('{m}_b', torch.ones({c}, {c}, dtype=torch.bool).tril())"),
        ),
        (
            "sdpa with a scale",
            "3",
            (*HEADS, "{y} = F.scaled_dot_product_attention({y}q, {y}k, {y}v, scale=0.5)", MERGE),
            QKV,
        ),
        (
            "attention in one projection",
            "3",
            (
                "{y}q, {y}k, {y}v = self.{m}_qkv({x}).reshape({n}, {S1}, 3, {h}, {hd}).permute(2, 0, 3, 1, 4)",
                "{y} = (({y}q * {hd} ** -0.5) @ {y}k.transpose(-2, -1)).softmax(-1) @ {y}v",
                "{y} = self.{m}_o({y}.transpose(1, 2).reshape({n}, {S1}, -1))",
            ),
            FUSED,
        ),
        (
            "attention in one projection, open",
            "3",
            (
                "{y}q, {y}k, {y}v = self.{m}_qkv({x}).view({n}, {S1}, 3, {h}, -1).permute(2, 0, 3, 1, 4).unbind(0)",
                "{y} = F.scaled_dot_product_attention({y}q, {y}k, {y}v)",
                MERGE,
            ),
            FUSED,
        ),
        (
            "attention in chunks",
            "3",
            (
                "{y}q, {y}k, {y}v = [t.unflatten(2, ({h}, {hd})).transpose(1, 2) for t in self.{m}_qkv({x}).chunk(3, 2)]",
                "{y} = F.scaled_dot_product_attention({y}q, {y}k, {y}v)",
                MERGE,
            ),
            FUSED,
        ),
        (
            "attention, heads outermost",
            "3",
            (
                "{y}q, {y}k, {y}v = self.{m}_qkv({x}).view({n}, {S1}, {h}, 3 * {hd}).transpose(1, 2).chunk(3, -1)",
                "{y} = F.scaled_dot_product_attention({y}q, {y}k, {y}v)",
                MERGE,
            ),
            FUSED,
        ),
        (
            "grouped queries",
            "3",
            (
                "{y}q = self.{m}_q({x}).unflatten(2, (4, -1)).transpose(1, 2)",
                "{y}k = self.{m}_k({x}).unflatten(2, (2, -1)).transpose(1, 2).repeat_interleave(2, 1)",
                "{y}v = self.{m}_v({x}).unflatten(2, (2, -1)).transpose(1, 2).repeat_interleave(2, 1)",
                "{y} = F.scaled_dot_product_attention({y}q, {y}k, {y}v)",
                MERGE,
            ),
            (
                "self.{m}_q = nn.Linear({l}, 4 * {hd})",
                "self.{m}_k = nn.Linear({l}, 2 * {hd})",
                "self.{m}_v = nn.Linear({l}, 2 * {hd})",
                "self.{m}_o = nn.Linear(4 * {hd}, {l})",
            ),
        ),
        (
            "grouped queries by the option",
            "3",
            (
                "{y}q = self.{m}_q({x}).view({n}, {S1}, 4, {hd}).transpose(1, 2)",
                "{y}k = self.{m}_k({x}).view({n}, {S1}, 2, {hd}).transpose(1, 2)",
                "{y}v = self.{m}_v({x}).view({n}, {S1}, 2, {hd}).transpose(1, 2)",
                "{y} = F.scaled_dot_product_attention({y}q, {y}k, {y}v, enable_gqa=True)",
                MERGE,
            ),
            (
                "self.{m}_q = nn.Linear({l}, 4 * {hd})",
                "self.{m}_k = nn.Linear({l}, 2 * {hd})",
                "self.{m}_v = nn.Linear({l}, 2 * {hd})",
                "self.{m}_o = nn.Linear(4 * {hd}, {l})",
            ),
        ),
        (
            "one key for all heads",
            "3",
            (
                "{y}q = self.{m}_q({x}).unflatten(2, ({h}, {hd})).transpose(1, 2)",
                "{y}k, {y}v = self.{m}_kv({x}).unsqueeze(1).split({hd}, -1)",
                "{y} = ({y}q @ {y}k.mT / {hd} ** 0.5).softmax(-1) @ {y}v",
                MERGE,
            ),
            (
                "self.{m}_q = nn.Linear({l}, {h} * {hd})",
                "self.{m}_kv = nn.Linear({l}, 2 * {hd})",
                "self.{m}_o = nn.Linear({h} * {hd}, {l})",
            ),
        ),
        (
            "cross attention",
            "3",
            (
                "{y}q = self.{m}_q({x}).unflatten(2, ({h}, -1)).transpose(1, 2)",
                "{y}k = self.{m}_k({z}).unflatten(2, ({h}, -1)).transpose(1, 2)",
                "{y}v = self.{m}_v({z}).unflatten(2, ({h}, -1)).transpose(1, 2)",
                "{y} = F.scaled_dot_product_attention({y}q, {y}k, {y}v)",
                MERGE,
            ),
            (
                "self.{m}_q = nn.Linear({l}, {h} * {hd})",
                "self.{m}_k = nn.Linear({vl}, {h} * {hd})",
                "self.{m}_v = nn.Linear({vl}, {h} * {hd})",
                "self.{m}_o = nn.Linear({h} * {hd}, {l})",
            ),
        ),
        (
            "relative bias",
            "3",
            (
                *HEADS,
                "{y}b = self.{m}_t[self.{m}_i.view(-1)].view({c}, {c}, -1).permute(2, 0, 1)",
                "{y} = ({y}q @ {y}k.mT + {y}b).softmax(-1) @ {y}v",
                MERGE,
            ),
            (
                *QKV,
                "self.{m}_t = nn.Parameter(torch.randn(2 * {c} - 1, {h}))",
                "self.register_buffer('{m}_i', torch.arange({c})[:, None] - torch.arange({c}) + {c} - 1)",
            ),
        ),
        (
            "rotary attention",
            "3",
            (
                *HEADS,
                "{y}t = torch.outer(torch.arange({S1}, dtype={x}.dtype), self.{m}_f).repeat(1, 2)",
                "{y}q, {y}k = [t * {y}t.cos() + torch.cat([-t.chunk(2, -1)[1], t.chunk(2, -1)[0]], -1) * {y}t.sin()"
                " for t in ({y}q, {y}k)]",
                "{y} = F.scaled_dot_product_attention({y}q, {y}k, {y}v)",
                MERGE,
            ),
            (*QKV, "self.register_buffer('{m}_f', 10.0 ** -torch.arange({hd} // 2))"),
        ),
        (
            "normalised queries",
            "3",
            (
                *HEADS,
                "{y}q, {y}k = F.normalize({y}q, dim=-1), self.{m}_n({y}k)",
                "{y} = F.scaled_dot_product_attention({y}q, {y}k, {y}v)",
                MERGE,
            ),
            (*QKV, "self.{m}_n = nn.LayerNorm({hd})"),
        ),
        (
            "talking heads",
            "3",
            (
                *HEADS,
                "{y}s = self.{m}_t(({y}q @ {y}k.mT).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)",
                "{y} = {y}s.softmax(-1) @ {y}v",
                MERGE,
            ),
            (*QKV, "self.{m}_t = nn.Linear({h}, {h})"),
        ),
        (
            "linear attention",
            "3",
            (
                *HEADS,
                "{y}q, {y}k = F.elu({y}q) + 1, F.elu({y}k) + 1",
                "{y} = ({y}q @ ({y}k.mT @ {y}v)) / ({y}q * {y}k.sum(2, keepdim=True)).sum(-1, keepdim=True)",
                MERGE,
            ),
            QKV,
        ),
        (
            "attention by einsum",
            "3",
            (
                "{y}q, {y}k, {y}v = (f({x}).view({n}, {S1}, {h}, {hd}) for f in (self.{m}_q, self.{m}_k, self.{m}_v))",
                "{y}s = torch.einsum('bqhd,bkhd->bhqk', {y}q, {y}k).softmax(-1)",
                "{y} = self.{m}_o(torch.einsum('bhqk,bkhd->bqhd', {y}s, {y}v).reshape({n}, {S1}, -1))",
            ),
            QKV,
        ),
        (
            "attention with heads in the batch",
            "3",
            (
                "{y}q, {y}k, {y}v = (f({x}).view({n}, {S1}, {h}, {hd}).transpose(1, 2).reshape({n} * {h}, {S1}, {hd})"
                " for f in (self.{m}_q, self.{m}_k, self.{m}_v))",
                "{y} = torch.bmm(torch.bmm({y}q, {y}k.mT).softmax(-1), {y}v)",
                "{y} = self.{m}_o({y}.view({n}, {h}, {S1}, {hd}).transpose(1, 2).reshape({n}, {S1}, {h} * {hd}))",
            ),
            QKV,
        ),
        (
            "channel attention of heads",
            "4",
            (
                "{y}q, {y}k, {y}v = self.{m}({x}).flatten(2).unflatten(1, (3, {h}, {hd})).unbind(1)",
                "{y}s = (F.normalize({y}q, dim=-1) @ F.normalize({y}k, dim=-1).transpose(-2, -1) * self.{m}_t).softmax(-1)",
                "{y} = self.{m}_o(({y}s @ {y}v).flatten(1, 2).unflatten(2, ({S2}, {S3})))",
            ),
            (
                "self.{m} = nn.Conv2d({c}, 3 * {h} * {hd}, 1)",
                "self.{m}_t = nn.Parameter(torch.randn({h}, 1, 1))",
                "self.{m}_o = nn.Conv2d({h} * {hd}, {c}, 1)",
            ),
        ),
        (
            "attention over pixels",
            "4",
            (
                "{y}q, {y}k, {y}v = (f({x}).flatten(2) for f in (self.{m}_q, self.{m}_k, self.{m}_v))",
                "{y} = {y}v @ ({y}q.transpose(1, 2) @ {y}k).softmax(-1).transpose(1, 2)",
                "{y} = {x} + self.{m}_g * {y}.view({x}.shape)",
            ),
            (
                "self.{m}_q = nn.Conv2d({c}, 4, 1)",
                "self.{m}_k = nn.Conv2d({c}, 4, 1)",
                "self.{m}_v = nn.Conv2d({c}, {c}, 1)",
                "self.{m}_g = nn.Parameter(torch.ones(1))",
            ),
        ),
        (
            "attention pooling",
            "3",
            "(self.{m}({x}).softmax(1) * {x}).sum(1)",
            "nn.Linear({l}, 1)",
        ),
        (
            "learned queries",
            "3",
            (
                "{y}k, {y}v = self.{m}_k({x}), self.{m}_v({x})",
                "{y} = F.scaled_dot_product_attention(self.{m}.expand({n}, -1, -1), {y}k, {y}v)",
            ),
            (
                "self.{m} = nn.Parameter(torch.randn(1, 3, {w}))",
                "self.{m}_k = nn.Linear({l}, {w})",
                "self.{m}_v = nn.Linear({l}, {w})",
            ),
        ),
        (
            "multi-head module",
            "3",
            "self.{m}({x}, {x}, {x}, need_weights={flag})[0]",
            "nn.MultiheadAttention({l}, {p}, batch_first=True, bias={bias})",
        ),
        (
            "multi-head module, weights used",
            "3",
            ("{y}, {y}s = self.{m}({x}, {x}, {x})", "{y} = {y} + ({y}s @ {x})"),
            "nn.MultiheadAttention({l}, {p}, batch_first=True)",
        ),
        (
            "multi-head module, time first",
            "3",
            (
                "{y}t = {x}.transpose(0, 1)",
                "{y} = self.{m}({y}t, {y}t, {y}t, need_weights=False)[0].transpose(0, 1)",
            ),
            "nn.MultiheadAttention({l}, {p})",
        ),
        (
            "multi-head module with extra keys",
            "3",
            "{x} + self.{m}({x}, {x}, {x}, need_weights=False)[0]",
            "nn.MultiheadAttention({l}, {p}, batch_first=True, add_bias_kv={bias}, add_zero_attn={flag})",
        ),
        (
            "multi-head module across",
            "3",
            "self.{m}({x}, {z}, {z}, need_weights=False)[0]",
            "nn.MultiheadAttention({l}, {p}, kdim={vl}, vdim={vl}, batch_first=True)",
        ),
        (
            "multi-head module masked",
            "3",
            "self.{m}({x}, {x}, {x}, attn_mask=self.{m}_b, need_weights=False)[0]",
            (
                "self.{m} = nn.MultiheadAttention({l}, {p}, batch_first=True)",
                "self.register_buffer('{m}_b', torch.ones({c}, {c}, dtype=torch.bool).triu(1))",
            ),
        ),
        (
            "encoder layer",
            "3",
            "self.{m}({x})",
            "nn.TransformerEncoderLayer({l}, {p}, {w}, batch_first=True, norm_first={flag}, dropout=0.0)",
        ),
        (
            "decoder layer",
            "3",
            "self.{m}({x}, {x}.tanh())",
            "nn.TransformerDecoderLayer({l}, {p}, {w}, batch_first=True, norm_first={flag}, dropout=0.0)",
        ),
    ),
    weight=0.8,
)
