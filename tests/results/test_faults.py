"""Faults that pydantic finds are told in attnbench's words: what was typed, and what would be right."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError, model_validator

from attnbench.results.records.cells import Record, Row
from attnbench.results.records.faults import first_fault, typed_fault
from tests.results.test_compare import row


class Made(BaseModel):
    calls: int = Field(default=2, ge=2, le=9)
    share: float = Field(default=0.5, gt=0, lt=1)
    seconds: int | float = 1

    @model_validator(mode="after")
    def agree(self) -> Made:
        if self.calls == 7:
            raise ValueError("seven calls are unlucky")
        return self


def fault(**fields: Any) -> ValidationError:
    with pytest.raises(ValidationError) as found:
        Made(**fields)
    return found.value


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"calls": 1}, "calls 1 must be 2 or more"),
        ({"calls": 10}, "calls 10 must be 9 or less"),
        ({"share": 0.0}, "share 0.0 must be above 0"),
        ({"share": 2.5}, "share 2.5 must be below 1"),
    ],
)
def test_a_limit_is_told_with_the_value(fields: dict[str, Any], said: str) -> None:
    assert typed_fault(fault(**fields)).removesuffix(".0") == said
    name, _, words = said.split(" ", 2)
    assert first_fault(fault(**fields)).removesuffix(".0") == f"{name}: {words}"


def test_other_faults_keep_pydantics_words() -> None:
    assert typed_fault(fault(seconds="soon")).startswith("seconds 'soon' cannot be used: Input should be a valid")
    assert first_fault(fault(calls=7), "it") == "it: seven calls are unlucky"


class Measured(Record):
    milliseconds: float


@pytest.mark.parametrize("value", [1e31, 1e308])
def test_figures_that_no_machine_measures_are_no_record(value: float) -> None:
    with pytest.raises(ValidationError) as found:
        Measured(milliseconds=value)
    assert first_fault(found.value) == f"row: milliseconds is {value:g}, which is no figure that can be measured"


@pytest.mark.parametrize("name", ["settings", "settings_given"])
@pytest.mark.parametrize("text", ["{not json", "[]", "", "[" * 9_000, "[" * 100_000, json.dumps({"x": "y" * 10_000})])
def test_settings_that_are_no_object_are_no_record(name: str, text: str) -> None:
    fields = row().model_dump() | {name: text}
    with pytest.raises(ValidationError) as found:
        Row.model_validate(fields)
    assert first_fault(found.value).startswith(f"row: {name} must be a JSON object of up to 10,000 characters, not ")


def test_what_is_quoted_is_short() -> None:
    class Deep(BaseModel):
        fields: dict[str, int]

    with pytest.raises(ValidationError) as found:
        Deep.model_validate({"fields": {"x" * 10_000: "y"}})
    assert len(first_fault(found.value)) < 400
