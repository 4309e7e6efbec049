"""Exchanges between the ranks of a group: differentiable, counted, and with a sentence where a rank is lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from attnbench.kernels.errors import BadInput, RankLost, Unsupported
from attnbench.kernels.phases import phase

Timer = Callable[[torch.device], Callable[[], Callable[[], float]]]
"""Starts to time work of a device. What it returns ends that, and returns what waits for the milliseconds."""


@dataclass
class Moved:
    """Bytes that this rank exchanged with others, what it keeps for itself not counted.

    Attributes:
        sent, received: bytes.
        exchanges: how many exchanges there were.
        timer: times each exchange, waiting for other ranks included.
        spans: the milliseconds of each, which wait for the device.
    """

    sent: int = 0
    received: int = 0
    exchanges: int = 0
    timer: Timer | None = None
    spans: list[Callable[[], float]] = field(default_factory=list)

    @property
    def ms(self) -> float:
        """What all exchanges took together."""
        return sum(span() for span in self.spans)


_counters: list[Moved] = []
"""Of the whole process: backward passes of a GPU run in a thread of their own."""


@contextmanager
def counting(timer: Timer | None = None) -> Iterator[Moved]:
    """Count what this process exchanges inside, forward and backward, and time it if there is a timer."""
    moved = Moved(timer=timer)
    _counters.append(moved)
    try:
        yield moved
    finally:
        _counters[:] = [each for each in _counters if each is not moved]


@dataclass(frozen=True, eq=False)
class Ranks:
    """The processes of a group, as one of them sees them.

    Attributes:
        group: of torch.distributed.
        rank: of this process, from 0.
        size: how many there are.
    """

    group: dist.ProcessGroup
    rank: int
    size: int

    @classmethod
    def of(cls, group: object, device: torch.device) -> Ranks:
        """Return the ranks of a group.

        Raises:
            BadInput: for anything but a group that this process belongs to.
            Unsupported: for a group that does not exchange tensors on the device.
        """
        if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
            raise BadInput(f"group is {group!r}; it must be a torch.distributed.ProcessGroup, such as dist.group.WORLD")
        rank = dist.get_rank(group)
        if rank < 0:
            raise BadInput("this process is not a rank of the group: only its ranks may call")
        serves = dict(each.split(":") for each in dist.get_backend_config(group).split(","))
        backend = serves.get(device.type, "of none")
        if (backend == "nccl") != (device.type == "cuda"):
            raise Unsupported(f"the backend {backend} of the group does not serve tensors on {device}")
        return cls(group, rank, dist.get_world_size(group))

    def exchange(self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Send one tensor to each rank and receive one from each, with a gradient.

        Args:
            parts: what each rank gets, all of one dtype; perhaps of no elements.
            shapes: of what each rank sends here.
        """
        sends, receives = [part.numel() for part in parts], [math.prod(shape) for shape in shapes]
        flat = torch.cat([part.reshape(-1) for part in parts])
        received: Tensor = _Exchange.apply(flat, sends, receives, self, None)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
        return [piece.view(*shape) for piece, shape in zip(received.split(receives), shapes, strict=True)]

    def begin(
        self, packed: Tensor, sends: Sequence[int], shapes: Sequence[Sequence[int]]
    ) -> Callable[[], list[Tensor]]:
        """Begin an exchange that goes on while this rank computes; what is returned waits for it, and returns it.

        Only the waiting counts as time of the exchange. Backward, nothing is overlapped.

        Args:
            packed: what the ranks get, that of rank 0 first; contiguous.
            sends: how many elements of it each rank gets.
            shapes: of what each rank sends here.
        """
        receives, flat = [math.prod(shape) for shape in shapes], packed.view(-1)
        waits = list[Callable[[], None]]()
        received: Tensor = _Exchange.apply(flat, list(sends), receives, self, waits)  # type: ignore[no-untyped-call]  # torch leaves apply untyped

        def arrive() -> list[Tensor]:
            with self._timed(flat.device):
                waits.pop()()
            return [piece.view(*shape) for piece, shape in zip(received.split(receives), shapes, strict=True)]

        return arrive

    def gather(self, part: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Send one tensor to every rank and receive that of each; see ``exchange``."""
        return self.exchange([part] * self.size, shapes)

    def texts(self, text: str, device: torch.device) -> list[str]:
        """Return the text of every rank."""
        mine = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(device)
        own = torch.tensor([len(mine)], device=device)
        lengths = [int(each) for each in torch.cat(self.gather(own, [(1,)] * self.size)).tolist()]
        return [bytes(each.tolist()).decode() for each in self.gather(mine, [(length,) for length in lengths])]

    def numbers(self, number: int, device: torch.device) -> Numbers:
        """Tell every rank a number below 2**63. It is not counted as an exchange.

        On a GPU this does not wait for the device.
        """
        given = torch.full((self.size,), number, dtype=torch.int64, device=device)
        out, work = self._swap(given, [1] * self.size, [1] * self.size)
        if work is not None:
            with lost(self):
                work.wait()
        if device.type != "cuda":
            return Numbers(out)
        here = torch.empty(out.shape, dtype=out.dtype, pin_memory=True).copy_(out, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(device))
        return Numbers(here, arrived)

    def move(self, flat: Tensor, sends: Sequence[int], receives: Sequence[int]) -> Tensor:
        """Exchange pieces of a vector, of so many elements to and from each rank, without a gradient."""
        with self._timed(flat.device):
            out, wait = self.start(flat, sends, receives)
            wait()
        return out

    def start(self, flat: Tensor, sends: Sequence[int], receives: Sequence[int]) -> tuple[Tensor, Callable[[], None]]:
        """Begin to move, as ``move`` does; return what will be there after the wait, and what waits."""
        width = flat.element_size()
        with phase("communicate"):
            out, work = self._swap(flat.detach(), sends, receives)
        for moved in _counters:
            moved.sent += (sum(sends) - sends[self.rank]) * width
            moved.received += (sum(receives) - receives[self.rank]) * width
            moved.exchanges += 1

        def wait() -> None:
            if work is not None:
                with phase("communicate"), lost(self):
                    work.wait()

        return out, wait

    @contextmanager
    def _timed(self, device: torch.device) -> Iterator[None]:
        """Let the counters that have a timer time what is inside."""
        ends = [(moved, moved.timer(device)) for moved in _counters if moved.timer is not None]
        yield
        for moved, end in ends:
            moved.spans.append(end())

    def _swap(self, flat: Tensor, sends: Sequence[int], receives: Sequence[int]) -> tuple[Tensor, dist.Work | None]:
        width = flat.element_size()
        out = torch.empty(sum(receives) * width, dtype=torch.uint8, device=flat.device)
        given = flat.contiguous().view(torch.uint8)  # gloo does not know every dtype
        with lost(self):
            work = dist.all_to_all_single(
                out, given, [width * n for n in receives], [width * n for n in sends], group=self.group, async_op=True
            )
        return out.view(flat.dtype), work


@dataclass(frozen=True, eq=False)
class Numbers:
    """A number of each rank, which a GPU may still be waiting for."""

    tensor: Tensor
    arrived: torch.cuda.Event | None = None

    @property
    def are_here(self) -> bool:
        """Whether ``values`` need not wait."""
        return self.arrived is None or self.arrived.query()

    def values(self) -> list[int]:
        """Return the number of each rank, when all have told it."""
        if self.arrived is not None:
            self.arrived.synchronize()
        values: list[int] = self.tensor.tolist()
        return values


@contextmanager
def lost(ranks: Ranks) -> Iterator[None]:
    """Say what it means if an exchange inside fails."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        said = str(error).partition("\n")[0][:200]
        raise RankLost(
            f"rank {ranks.rank} of {ranks.size} waits for others in vain: a rank ended, failed, or made another "
            f"call; its own message says why ({said})"
        ) from error


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, flat: Tensor, sends: list[int], receives: list[int], ranks: Ranks,
        waits: list[Callable[[], None]] | None,
    ) -> Tensor:  # fmt: skip
        ctx.sends, ctx.receives, ctx.ranks = sends, receives, ranks
        if waits is None:
            return ranks.move(flat, sends, receives)
        out, wait = ranks.start(flat, sends, receives)
        waits.append(wait)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.ranks.move(grads[0], ctx.receives, ctx.sends), None, None, None, None
