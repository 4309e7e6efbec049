"""One attention call of a group: each rank brings some tokens, computes its share, and gets its tokens' output back.

A ``Deal`` says whose heads and whose queries a rank computes. All ranks send it what that takes in one exchange, q, k
and v together, and get the outputs of their queries back in a second one. Where a selection looks at q and k alone, v
has an exchange of its own, which goes on during the selection. By "ulysses" a rank has some heads of all
queries, so any method runs as in one process. By "allgather" it has some queries and all keys, so the method must be
able to plan for a shard of the queries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.errors import AttnbenchError, BadInput, Unsupported
from attnbench.kernels.shard import Shard
from attnbench.methods.arguments import check_gradient, check_tensor, finite, prepare
from attnbench.methods.base import Call, Method
from attnbench.methods.full import plan as plan_full
from attnbench.methods.per_head import map_tensors
from attnbench.methods.recipe import runs_dense
from attnbench.methods.running import Ran, make_plan_of, run
from attnbench.parallel.balance import Balance
from attnbench.parallel.collectives import Ranks
from attnbench.parallel.deal import Deal, deal
from attnbench.parallel.handshake import refuse, shards_of
from attnbench.parallel.states import whole_state


def in_group(
    asked: Sequence[Any], group: object, parallel: object, scale: float | None, engine: str, return_lse: bool,
    return_plan: bool,
) -> Ran:  # fmt: skip
    """Run one call of ``attnbench.attention`` with the other ranks of a group: see ``among``.

    Args:
        group: of torch.distributed.

    Raises:
        BadInput: for anything but a group that this process belongs to.
        Unsupported: for a group that does not exchange tensors on the device.
    """
    ranks = Ranks.of(group, _device(asked))
    return among(ranks, asked, parallel, scale, engine, return_lse, return_plan)


def among(
    ranks: Ranks, asked: Sequence[Any], parallel: object, scale: float | None = None, engine: str = "auto",
    return_lse: bool = False, return_plan: bool = False,
) -> Ran:  # fmt: skip
    """Run one call of ``attnbench.attention`` with the other ranks.

    Args:
        ranks: that make the call together.
        asked: q, k and v of this rank's tokens, then method, grid, text, layer, step, state, params and settings.
        parallel: one of ``WAYS``, a ``Balance``, or None for "ulysses".
        scale, engine, return_lse, return_plan: as of ``attnbench.attention``.

    Raises:
        BadInput: for arguments that do not fit each other, or differ between ranks.
        Unsupported: for a method that cannot be computed so, or an engine that cannot serve its plan.
        RankLost: if another rank ended.
    """
    q, k, v = asked[:3]
    device = _device(asked)
    try:
        work = _Work.of(ranks, asked, parallel, scale, engine, return_lse, return_plan)
    except AttnbenchError as error:
        refuse(ranks, str(error), device)
        raise
    lengths = shards_of(ranks, work.described, q.shape[2], device)
    if sum(lengths) != work.call.layout.tokens:
        raise BadInput(
            f"the shards have {' + '.join(map(str, lengths))} = {sum(lengths)} tokens, but grid and text make "
            f"{work.call.layout.tokens}"
        )
    return work.run(q, k, v, lengths)


def _device(asked: Sequence[Any]) -> torch.device:
    return asked[0].device if isinstance(asked[0], Tensor) else torch.device("cpu")


@dataclass(frozen=True, eq=False)
class _Work:
    """A checked call of one rank."""

    ranks: Ranks
    dealt: Deal
    method: Method
    settings: Any
    call: Call
    scale: float
    engine: str
    return_lse: bool
    return_plan: bool
    balance: Balance | None
    described: dict[str, object]

    @classmethod
    def of(
        cls, ranks: Ranks, asked: Sequence[Any], parallel: object, scale: float | None, engine: str, return_lse: bool,
        return_plan: bool,
    ) -> _Work:  # fmt: skip
        method, settings, call = prepare(*asked, all_tokens=False)
        q, k, v = asked[:3]
        check_tensor("v", v)
        check_gradient(method, q, k, v)
        balance = parallel if isinstance(parallel, Balance) else None
        heads, kv_heads, tokens = q.shape[1], k.shape[1], call.layout.tokens
        if ranks.size > tokens:
            raise BadInput(f"{ranks.size} ranks are more than the tokens ({tokens}): use fewer ranks")
        if balance is not None:
            way = balance.way
            dealt = balance.deal(call.layer, ranks.size, heads, kv_heads)
        elif parallel is None or isinstance(parallel, str):
            way = "ulysses" if parallel is None else parallel
            dealt = deal(way, ranks.size, heads, kv_heads)
        else:
            raise BadInput(f"parallel is {parallel!r}; it must be a name such as 'ulysses', or a Balance")
        _check_method(method, settings, call, way, dealt)
        described = {
            "method": method.name, "settings": repr(settings), "grid": str(call.layout.grid), "text": call.layout.text,
            "layer": call.layer, "step": call.step, "scale": scale, "engine": engine, "parallel": way,
            "deal": dealt.heads, "ranks": ranks.size, "batch": q.shape[0], "heads": heads, "KV heads": kv_heads,
            "head_dim": q.shape[3], "dtype": str(q.dtype), "return_lse": return_lse, "return_plan": return_plan,
            "gradient": [torch.is_grad_enabled() and x.requires_grad for x in (q, k, v)],
            "state": _shapes(call.state), "params": _shapes(call.params),
        }  # fmt: skip
        factor = q.shape[3] ** -0.5 if scale is None else finite(scale)
        return cls(
            ranks, dealt, method, settings, call, factor, engine, return_lse, return_plan, balance, described
        )  # fmt: skip

    def run(self, q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Ran:
        """Exchange, attend, and exchange back."""
        ranks, dealt, me = self.ranks, self.dealt, self.ranks.rank
        heads, row = dealt.heads[me], dealt.rows[me]
        early = self._selects_early()
        arriving = self._begin(q, (k,) if early else (k, v), lengths)
        values_arriving = self._begin(None, (v,), lengths) if early else None
        queries, keys, *rest = arriving()
        ends = [0, *accumulate(lengths)]
        shard = None
        if dealt.splits_queries:
            rows_of = _RowsOfHeads(ranks, dealt, ends, self.call)
            shard = Shard(ends[row.start], ends[row.stop], rows_of.whole_heads, rows_of.own_rows)
        call, settings = self._of_heads(heads, dealt.kv_heads(me), rest[0] if self.method.needs_v else None, shard)
        plan = None
        if values_arriving is not None:
            plan = make_plan_of(self.method, settings, queries, keys, call)
            rest = values_arriving()
        (values,) = rest
        ran = run(
            self.method, settings, queries, keys, values, call, self.scale, self.engine, return_lse=self.return_lse,
            plan=plan,
        )  # fmt: skip
        output = self._back(ran.output, lengths)
        lse = self._back(ran.lse[..., None], lengths)[..., 0] if self.return_lse and ran.lse is not None else None
        plan = ran.plan
        if self.return_plan and plan.state is not None:
            same = plan.state is call.state
            state = self.call.state if same else whole_state(ranks, dealt, plan.state, q.device)
            plan = dataclasses.replace(plan, state=state)
        if self.balance is not None:
            self.balance.count(self.call.layer, ranks, dealt, plan, q.device)
        return Ran(output, lse, plan)

    def _selects_early(self) -> bool:
        """Whether there is a selection to run while the values are on the way."""
        method = self.method
        if method.needs_v or not method.depends_on_qk or method.plan is plan_full:
            return False
        return not runs_dense(self.settings, self.call)

    def _begin(self, q: Tensor | None, kv: Sequence[Tensor], lengths: Sequence[int]) -> Callable[[], list[Tensor]]:
        """Begin to share tensors out.

        Args:
            q: the queries, if they go along.
            kv: keys, values or both.
            lengths: tokens of each rank.

        Returns:
            What waits, and returns q [B, own heads, own queries, D] if it went along, and kv [B, their heads, N, D].
        """
        dealt, me, everyone = self.dealt, self.ranks.rank, range(self.ranks.size)
        by_rank = [_shares(x, [dealt.kv_heads(rank) for rank in everyone]) for x in kv]
        if q is not None:
            asked = [dealt.heads[rank] if me in dealt.rows[rank] else () for rank in everyone]
            by_rank.insert(0, _shares(q, asked))
        # On the way heads come first, so that all that a rank gets lies together, and is copied once.
        pieces = [shares[rank].transpose(0, 1) for rank in everyone for shares in by_rank]
        batch, _, tokens, width = kv[0].shape
        sends = [sum(shares[rank].shape[1] for shares in by_rank) * batch * tokens * width for rank in everyone]
        heads = [len(dealt.heads[me]) if q is not None and rank in dealt.rows[me] else 0 for rank in everyone]
        own = len(dealt.kv_heads(me))
        shapes = [(heads[rank] + own * len(kv), batch, lengths[rank], width) for rank in everyone]
        arriving = self.ranks.begin(torch.cat(pieces).contiguous(), sends, shapes)

        def arrive() -> list[Tensor]:
            got = [
                x.transpose(0, 1).split([count, *[own] * len(kv)], 1)
                for x, count in zip(arriving(), heads, strict=True)
            ]
            queries = [] if q is None else [torch.cat([got[rank][0] for rank in dealt.rows[me]], 2)]
            joined = [torch.cat([each[place] for each in got], 2) for place in range(1, 1 + len(kv))]
            places = dealt.kv_of_heads(me)
            return queries + (joined if places is None else [_take(x, places) for x in joined])

        return arrive

    def _back(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return to each rank what belongs to its tokens: [B, own heads, own queries, D] -> [B, H, its tokens, D]."""
        dealt, me, everyone = self.dealt, self.ranks.rank, range(self.ranks.size)
        batch, heads, _, width = x.shape
        # On the way tokens come first, so that those of a rank lie together, and are copied once.
        sends = [lengths[rank] * batch * heads * width if rank in dealt.rows[me] else 0 for rank in everyone]
        asked = [len(dealt.heads[rank]) if me in dealt.rows[rank] else 0 for rank in everyone]
        shapes = [(lengths[me], batch, count, width) for count in asked]
        received = self.ranks.begin(x.permute(2, 0, 1, 3).contiguous(), sends, shapes)()
        mine = [rank for rank in everyone if asked[rank]]
        joined = torch.cat([received[rank].permute(1, 2, 0, 3) for rank in mine], 1)
        order = [head for rank in mine for head in dealt.heads[rank]]
        return joined if order == sorted(order) else _take(joined, sorted(range(len(order)), key=order.__getitem__))

    def _of_heads(
        self, heads: tuple[int, ...], kv_heads: tuple[int, ...], v: Tensor | None, shard: Shard | None
    ) -> tuple[Call, Any]:
        """Return the call and the settings of the rank's heads."""
        every = sum(len(share) for share in self.dealt.heads[: len(self.dealt.rows[0])])

        def cut(x: Tensor) -> Tensor:
            if x.dim() < 2 or x.shape[1] not in (every, every // self.dealt.group):
                return x
            return _take(x, heads if x.shape[1] == every else kv_heads)

        params = self.call.params
        if isinstance(params, Mapping):
            own = self.method.params_by_head
            params = {name: cut(x) if name in own and isinstance(x, Tensor) else x for name, x in params.items()}
        whole = len(heads) == every
        state = self.call.state if whole else map_tensors(self.call.state, cut)
        per_head = {
            name: tuple(value[head] for head in heads)
            for name in self.method.per_head
            if isinstance(value := getattr(self.settings, name), tuple)
        }
        settings = dataclasses.replace(self.settings, **per_head) if per_head else self.settings
        call = dataclasses.replace(self.call, state=state, params=params, v=v, shard=shard)
        return call, settings


class _RowsOfHeads:
    """Brings the rows of whole heads together where ranks have some queries each, and takes them apart again.

    The ranks of a column compute the same heads; here they share these out among themselves.
    """

    def __init__(self, ranks: Ranks, dealt: Deal, ends: Sequence[int], call: Call) -> None:
        self.ranks = ranks
        self.column = dealt.column(ranks.rank)
        self.count = len(dealt.heads[ranks.rank])
        edges = [-(-self.count * place // len(self.column)) for place in range(len(self.column) + 1)]
        self.shares = {rank: (edges[place], edges[place + 1]) for place, rank in enumerate(self.column)}
        before, n = call.layout.text[0], call.layout.grid.tokens
        inside = [min(max(end - before, 0), n) for end in ends]
        self.lengths = {rank: inside[dealt.rows[rank].stop] - inside[dealt.rows[rank].start] for rank in self.column}

    def whole_heads(self, rows: Tensor) -> Tensor:
        batch, _, _, blocks = rows.shape
        first, stop = self.shares[self.ranks.rank]
        none = rows.new_empty(0)
        parts = [rows[:, slice(*self.shares[rank])] if rank in self.shares else none for rank in range(self.ranks.size)]
        shapes = [
            (batch, stop - first, self.lengths[rank], blocks) if rank in self.shares else (0,)
            for rank in range(self.ranks.size)
        ]
        received = self.ranks.exchange(parts, shapes)
        return torch.cat([received[rank] for rank in self.column], 2)

    def own_rows(self, heads: Tensor) -> Tensor:
        batch, _, _, blocks = heads.shape
        pieces = dict(zip(self.column, heads.split([self.lengths[rank] for rank in self.column], 2), strict=True))
        none = heads.new_empty(0)
        parts = [pieces.get(rank, none) for rank in range(self.ranks.size)]
        mine = self.lengths[self.ranks.rank]
        shapes = [
            (batch, self.shares[rank][1] - self.shares[rank][0], mine, blocks) if rank in self.shares else (0,)
            for rank in range(self.ranks.size)
        ]
        received = self.ranks.exchange(parts, shapes)
        return torch.cat([received[rank] for rank in self.column], 1)


def _check_method(method: Method, settings: Any, call: Call, way: str, dealt: Deal) -> None:
    if not method.heads_are_independent and way != "allgather":
        raise Unsupported(f"method {method.name!r} plans all heads together, so its heads cannot be shared by {way}")
    if dealt.splits_queries and (not method.plans_shards or method.finishes(settings, call)):
        raise Unsupported(
            f"method {method.name!r} does not say how its selection is gathered, so its queries cannot be shared by "
            f"{way}: use parallel='ulysses'"
        )


def _shapes(value: object) -> str:
    return repr(map_tensors(value, lambda x: f"{x.dtype}{list(x.shape)}"))


def _take(x: Tensor, heads: Sequence[int]) -> Tensor:
    """Return some heads of [B, H, ...], as a view where they follow one another."""
    if list(heads) == list(range(heads[0], heads[0] + len(heads))):
        return x[:, heads[0] : heads[0] + len(heads)]
    return x.index_select(1, torch.tensor(heads, device=x.device))


def _shares(x: Tensor, heads: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the heads of [B, H, ...] that each rank gets. Backward, a split is cheaper than as many slices."""
    if [head for share in heads for head in share] == list(range(x.shape[1])):
        return list(x.split([len(share) for share in heads], 1))
    return [_take(x, share) if share else x[:, :0] for share in heads]
