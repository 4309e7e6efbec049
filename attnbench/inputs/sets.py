"""The input sets that timed rounds rotate among: several q, k and v of one kind."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attnbench.inputs.make import Inputs
from attnbench.inputs.seeds import SETS


class InputSets:
    """Input sets by number. Those that fit stay; the others are made again whenever they are asked for.

    Attributes:
        hash: 16 hex digits that identify the bytes of all sets.
    """

    def __init__(self, make: Callable[[int], Inputs]) -> None:
        self._make = make
        self._kept: dict[int, Inputs] = {}
        digest = hashlib.sha256()
        for number in range(SETS):
            digest.update(self[number].hash.encode())
        self.hash = digest.hexdigest()[:16]

    def __getitem__(self, number: int) -> Inputs:
        """Return q, k and v of a set. They are for reading: methods get copies, see ``lend``."""
        found = self._kept.get(number)
        if found is None:
            if self._kept and not _fit(next(iter(self._kept.values()))):
                for other in [other for other in self._kept if other != 0]:
                    del self._kept[other]
            found = self._kept[number] = self._make(number)
        return found


def _fit(inputs: Inputs) -> bool:
    """Whether another set of this size, and a copy of one, leave half of the free memory to the calls."""
    return 2 * _size(inputs) <= _free(inputs.q.device) // 2


def loans_within(inputs: Inputs, wanted: int) -> int:
    """Return how many copies of a set there may be at once, with what calls on them give: SETS, or more if they fit.

    Args:
        inputs: the set.
        wanted: no more than these.
    """
    fitting = _free(inputs.q.device) // 2 // (_OF_A_CALL * _size(inputs))
    return min(wanted, max(SETS, fitting))


_OF_A_CALL = 3
"""How many times the size of q, k and v a call holds that nobody has looked at: copies, gradients, the output's too."""


def _size(inputs: Inputs) -> int:
    return sum(x.nbytes for x in (inputs.q, inputs.k, inputs.v))


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


Disguise = Literal["none", "signs", "scores", "scales"]
"""How copies differ from their set: by signs of channels, and by powers of two of those of q and k, or of v too."""


@dataclass(frozen=True, eq=False)
class Factors:
    """What the channels of a copy are multiplied by, [D] each.

    They are 1, 1/2 and 2 with either sign, and that of q times that of k is 1. So scores are the same to the last bit,
    and so is the output, divided by v's factors.
    """

    q: Tensor
    k: Tensor
    v: Tensor


@dataclass(frozen=True, eq=False)
class Loan:
    """Copies of an input set's q, k and v for one call of a method, at addresses that it has not seen.

    Attributes:
        q, k, v: the copies.
        source: the set.
        factors: by which the copies differ from the set; None: by nothing.
        versions: torch's counters of writes when the copies were made.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    source: Inputs
    factors: Factors | None
    versions: tuple[int, int, int]

    @property
    def qkv(self) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v."""
        return self.q, self.k, self.v

    @property
    def problem(self) -> str:
        """Which tensors the call wrote to; empty if it left them alone."""
        scratched = [
            name
            for name, x, source, version in zip(
                "qkv", self.qkv, (self.source.q, self.source.k, self.source.v), self.versions, strict=True
            )
            if x._version != version or not _equal(x, source, self._factor(name))
        ]
        return f"the call writes into {' and '.join(scratched)}, which it only borrows" if scratched else ""

    def upright(self, output: Tensor) -> Tensor:
        """Return an output [..., D] on these copies as it is on the set itself."""
        return output if self.factors is None else output / self.factors.v.to(output.dtype)

    def _factor(self, name: str) -> Tensor | None:
        return None if self.factors is None else getattr(self.factors, name)


class Lender:
    """Lends copies of input sets and never uses an address twice."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._random = int.from_bytes(os.urandom(8), "little") >> 1
        self._generator = torch.Generator().manual_seed(self._random)

    def lend(self, source: Inputs, *, disguise: Disguise) -> Loan:
        """Return copies of q, k and v, whose random channels differ from the set's as ``disguise`` says.

        In float16 they differ by signs at most: half of a number near 0 need not be one.
        """
        factors = None if disguise == "none" else self._factors(source.q, disguise)
        each = (None, None, None) if factors is None else (factors.q, factors.k, factors.v)
        q, k, v = (self.copy(x, factor) for x, factor in zip((source.q, source.k, source.v), each, strict=True))
        return Loan(q, k, v, source, factors, (q._version, k._version, v._version))

    def _factors(self, q: Tensor, disguise: Disguise) -> Factors:
        signs = 1 - 2 * torch.randint(0, 2, (2, q.shape[-1]), generator=self._generator)
        powers = torch.randint(-1, 2, (2, q.shape[-1]), generator=self._generator)
        if disguise == "signs" or q.dtype == torch.float16:
            powers = torch.zeros_like(powers)
        if disguise == "scores":
            powers[1] = 0
        powers_of_each = (powers[0], -powers[0], powers[1])
        each = [sign * 2.0**power for sign, power in zip(signs[[0, 0, 1]], powers_of_each, strict=True)]
        return Factors(*(factor.to(q.device, q.dtype) for factor in each))

    def copy(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """Return a contiguous copy of ``x``, times ``factor`` [D], at an address that no copy had before."""
        step = max(1, _ALIGNMENT // x.element_size())
        held = []  # while memory is held, the allocator gives another
        while True:
            flat = torch.empty(x.numel() + _PLACES * step, dtype=x.dtype, device=x.device)
            held.append(flat)
            place = int(torch.randint(0, _PLACES, (1,), generator=self._generator)) * step
            made = flat[place : place + x.numel()].view(x.shape)
            if made.data_ptr() not in self._seen:
                break
        self._seen.add(made.data_ptr())
        if factor is None:
            made.copy_(x)
        else:
            torch.mul(x, factor, out=made)
        return made.detach()


_ALIGNMENT = 256
"""Bytes: what torch's allocators align tensors to at most, so that kernels see what they see in a model."""

_PLACES = 256
"""How many addresses a copy may get in its memory."""


def _equal(x: Tensor, source: Tensor, factor: Tensor | None) -> bool:
    """Compare head by head: a copy of all of ``source`` might not fit."""
    return all(
        torch.equal(mine, theirs if factor is None else theirs * factor)
        for item, other in zip(x, source, strict=True)
        for mine, theirs in zip(item, other, strict=True)
    )
