from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest

from attnbench.cost.roofline import PEAKS, Peak, peak_of
from attnbench.cost.roofline.peaks import INSTRUCTIONS_SOURCE

PAGE = Path(__file__).resolve().parents[3] / "docs" / "roofline.md"


@pytest.mark.parametrize("peak", PEAKS, ids=lambda peak: peak.name)
def test_the_tensor_figure_is_multiprocessors_times_clock_times_operations(peak: Peak) -> None:
    computed = peak.sms * peak.clock_mhz * 1e6 * peak.flops_per_clock / 1e12
    assert computed == pytest.approx(peak.tensor_tflops, rel=1e-3)


def test_the_arithmetic_of_the_h100() -> None:
    peak = peak_of("NVIDIA H100 80GB HBM3")
    assert peak is not None
    from_clock = 132 * 1830e6 * 4096 / 1e12
    assert from_clock == pytest.approx(989.4, abs=0.1)
    assert (peak.tensor_tflops, peak.memory_tbs, peak.sms, peak.clock_mhz) == (989.4, 3.35, 132, 1830)
    assert peak.exponentials_per_s == pytest.approx(3.865e12, rel=1e-3)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200 SXM"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB SXM"),
        ("A100-SXM4-40GB", "A100 40GB SXM"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
    ],
)
def test_devices_are_known_by_the_name_that_the_driver_gives(device: str, name: str) -> None:
    assert [peak.name for peak in PEAKS if re.fullmatch(peak.pattern, device)] == [name]
    found = peak_of(device)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "device",
    [
        "",
        "cpu",
        platform.processor() or "x86_64",
        "Intel(R) Xeon(R) Platinum 8488C",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA L40",
        "NVIDIA H200 NVL",
        "NVIDIA B200",
        "Tesla V100-SXM2-16GB",
    ],
)
def test_what_is_not_listed_has_no_peak(device: str) -> None:
    assert peak_of(device) is None


def test_the_table_of_the_page_is_the_data() -> None:
    rows = [
        f"| {peak.name} | {peak.tensor_tflops:g} | {peak.memory_tbs:g} | {peak.sms} | {peak.clock_mhz:,} "
        f"| {peak.flops_per_clock:,} | {peak.exponentials_per_clock} | {peak.fp32_per_clock} | {peak.source} |"
        for peak in PEAKS
    ]
    text = PAGE.read_text(encoding="utf-8")
    table = re.search(r"^\| GPU \|.*\n\|---.*\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    assert table is not None
    assert table[1].splitlines() == rows
    assert INSTRUCTIONS_SOURCE in " ".join(text.split())
