"""Tables with a flipped bit: each is read, or refused in a sentence, and none ends the process."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnbench.kernels.errors import BadInput
from attnbench.results import parquet
from attnbench.results.parquet import NotWhole, TooLarge, contents
from attnbench.results.tables import TABLE, read_table, table_bytes
from tests.results.test_in_turns import run

MOST: dict[str, Any] = {"most_values": 2**24, "most_bytes": 2**28, "decode": True}


@pytest.fixture(scope="module")
def whole() -> bytes:
    made = run("a01", np.zeros(12), 1.0, np.random.default_rng(0), "t")
    return table_bytes(made.headers, made.rows, made.samples)


@pytest.fixture
def fresh() -> Iterator[None]:
    """No process that reads tables, before and after."""
    parquet._stop()
    yield
    parquet._stop()


def flipped(whole: bytes, seed: int) -> bytes:
    """Return a file with one bit of its footer changed."""
    generator, footer = random.Random(seed), int.from_bytes(whole[-8:-4], "little")
    data = bytearray(whole)
    data[len(data) - 8 - footer + generator.randrange(footer)] ^= 1 << generator.randrange(8)
    return bytes(data)


def read_or_refuse(data: bytes, folder: Path) -> None:
    (folder / TABLE).write_bytes(data)
    with contextlib.suppress(BadInput):
        assert read_table(folder / TABLE)


# With pyarrow 26 each of the first three aborts the process that reads it.
@pytest.mark.parametrize("seed", [49, 165, 316, 1, 2])
def test_a_flipped_bit_in_the_footer_ends_in_a_table_or_a_sentence(seed: int, whole: bytes, tmp_path: Path) -> None:
    read_or_refuse(flipped(whole, seed), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_many_flipped_bits_end_in_a_table_or_a_sentence(seed: int, whole: bytes, tmp_path: Path) -> None:
    read_or_refuse(flipped(whole, seed), tmp_path)


def test_a_process_that_ends_while_it_reads_is_a_sentence(
    whole: bytes, fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_PROGRAM", "import os; os.abort()")
    (tmp_path / TABLE).write_bytes(whole)
    with pytest.raises(BadInput, match=r"cannot read '.*table\.parquet' as a table: it is not a whole Parquet file"):
        read_table(tmp_path / TABLE)


def test_a_file_that_takes_too_long_is_refused(whole: bytes, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_PROGRAM", "import time; time.sleep(60)")
    monkeypatch.setattr(parquet, "SECONDS", 0.2)
    with pytest.raises(NotWhole):
        contents(whole, **MOST)


def test_a_file_that_says_it_is_too_large_is_not_read(whole: bytes) -> None:
    rows, about = contents(whole, **MOST)
    assert len(rows) == 2
    assert set(about) == {b"attnbench", b"ARROW:schema"}
    assert contents(whole, **MOST | {"decode": False})[0] == []
    with pytest.raises(TooLarge):
        contents(whole, **MOST | {"most_values": 10})
    with pytest.raises(TooLarge):
        contents(whole, **MOST | {"most_bytes": 10})
