"""Bytes, peaks and bounds: what a call moves, the limits of the device, and how close a measured time comes to them."""

from attnbench.cost.roofline.bounds import (
    Achieved,
    AttendSplit,
    Bounds,
    TimeShare,
    achieved,
    attend_bounds,
    exponential_ceiling_tflops,
    split_attend,
)
from attnbench.cost.roofline.operations import phase_flops
from attnbench.cost.roofline.peaks import PEAKS, Peak, peak_of
from attnbench.cost.roofline.probe import Probe, measure_peaks
from attnbench.kernels.traffic import Traffic, least_bytes, phase_traffic

__all__ = [
    "PEAKS",
    "Achieved",
    "AttendSplit",
    "Bounds",
    "Peak",
    "Probe",
    "TimeShare",
    "Traffic",
    "achieved",
    "attend_bounds",
    "exponential_ceiling_tflops",
    "least_bytes",
    "measure_peaks",
    "peak_of",
    "phase_flops",
    "phase_traffic",
    "split_attend",
]
