"""What belongs to a device and not to one shape: whole steps, clips, training runs, calibrations, and their figures."""

from __future__ import annotations

import re

import pytest

from attnbench.report.data.page import places_on
from attnbench.report.judge import device_words, is_on
from tests.report.conftest import make_row
from tests.report.two_devices import DEVICES, report_of_two

OF_A_DEVICE = {"steps", "quality", "clips", "training", "calibration"}


@pytest.fixture(autouse=True)
def quick_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the mask pictures out: they have their own test, and take a second each."""
    monkeypatch.setattr("attnbench.report.html.page.mask_pictures", lambda methods: [])


def test_what_was_made_on_a_device_belongs_to_its_selections() -> None:
    made = report_of_two()
    places = {device: places_on(made.data.selections, device) for device in DEVICES}
    assert sorted(places.values()) == [(0,), (1,)]
    parts = re.findall(r'data-selections="(\d+)" data-device="([^"]+)"', made.html)
    assert {(device, (int(place),)) for place, device in parts} == set(places.items())
    for name in OF_A_DEVICE:
        section = made.html.split(f'<section id="{name}"')[1].split("</section>")[0]
        assert section.count("data-selections=") == len(DEVICES), name
    for figure in made.data.figures:
        assert figure.section not in OF_A_DEVICE or figure.selections in places.values(), figure.name


@pytest.mark.parametrize("latencies_on", [DEVICES[:1], ()])
def test_nothing_is_hidden_that_no_selector_leads_to(latencies_on: tuple[str, ...]) -> None:
    made = report_of_two(latencies_on)
    assert "data-selections=" not in made.html
    mine = [figure for figure in made.data.figures if figure.section in OF_A_DEVICE]
    assert all(not figure.selections for figure in mine)
    shown = [(figure.section, figure.option) for figure in mine]
    assert len(shown) == len(set(shown)), "figures of which one is shown at a time are told apart"


def test_a_device_is_found_in_its_words() -> None:
    row = make_row(device="GPU (A)", gpus=2, parallel="ulysses")
    assert is_on(device_words(row), "GPU (A)")
    assert not is_on(device_words(row), "GPU")
    assert not is_on("GPU (A) XL", "GPU (A)")
