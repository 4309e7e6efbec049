"""What the phases of a cell compute and move, and what their times come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from attnbench import api
from attnbench.bench.bench import Bench
from attnbench.bench.trial import Trial
from attnbench.cost.roofline import Peak, Probe, Traffic, achieved, measure_peaks, peak_of, phase_flops, phase_traffic
from attnbench.kernels.errors import BadInput
from attnbench.machine.device import device_name
from attnbench.machine.stopwatch import Stopwatch

_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Ceilings:
    """What times are compared with: the datasheet and the probe, None where there is none.

    Attributes:
        gpu: the datasheet's figures.
        probe: what a matrix product and a copy reached in this run.
        products: whether both multiply the type of numbers that is profiled: half precision on CUDA, float32 on a CPU.
            If not, only their bandwidth is compared with.
    """

    gpu: Peak | None = None
    probe: Probe | None = None
    products: bool = False

    @classmethod
    def measured(cls, stopwatch: Stopwatch, dtype: torch.dtype) -> Ceilings:
        """Measure the probe on the stopwatch's device, and look the device up."""
        on_cuda = stopwatch.device.type == "cuda"
        gpu = peak_of(device_name("cuda")) if on_cuda else None
        fair = dtype in _HALF if on_cuda else dtype == torch.float32
        return cls(gpu, measure_peaks(stopwatch), fair)


@dataclass(frozen=True)
class Work:
    """Operations by (pass, phase), and bytes by phase of the forward pass."""

    flops: Mapping[tuple[str, str], int] = field(default_factory=dict)
    traffic: Mapping[str, Traffic] = field(default_factory=dict)

    @classmethod
    def of(cls, bench: Bench, trial: Trial) -> Work:
        """Count the work of a cell, on the tensors it is timed on. Waits for the device."""
        job = trial.job
        q, k = bench.inputs.q, bench.inputs.k
        plan = api.select(q, k, v=bench.inputs.v, **bench.workload.arguments(job))
        kv_heads, head_dim = k.shape[1], q.shape[3]
        passes = ("fwd", "bwd") if bench.agenda.direction == "fwdbwd" else ("fwd",)
        flops = {
            (one, phase): count
            for one in passes
            for phase, count in phase_flops(plan, head_dim, one, kv_heads=kv_heads).items()  # type: ignore[arg-type]  # one of the two
        }
        try:
            traffic = phase_traffic(plan, head_dim, q.element_size(), trial.cell.engine, kv_heads=kv_heads)
        except BadInput:  # none of our kernels takes numbers of 8 bytes
            traffic = {}
        return cls(flops, traffic)

    def fields(self, pass_: str, phase: str, time_ms: float, ceilings: Ceilings) -> dict[str, Any]:
        """Return the fields of a ``PhaseRow`` about work, and what a measured time of the phase comes to."""
        flops = self.flops.get((pass_, phase))
        traffic = self.traffic.get(phase) if pass_ == "fwd" else None
        known: dict[str, Any] = {"flops": flops}
        if traffic is not None:
            known |= {"bytes": traffic.min_bytes, "bytes_modelled": traffic.modelled_bytes}
        if time_ms <= 0:
            return known
        found = achieved(
            time_ms,
            flops=flops or 0,
            nbytes=traffic.min_bytes if traffic is not None else 0,
            gpu=ceilings.gpu,
            probe=ceilings.probe,
        )
        if flops:
            known["tflops"] = found.tflops
            known |= {"mfu": found.mfu, "mfu_probe": found.mfu_probe} if ceilings.products else {}
        if traffic is not None:
            known |= {"tbs": found.tbs, "bandwidth": found.bandwidth, "bandwidth_probe": found.bandwidth_probe}
        return known
