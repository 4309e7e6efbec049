"""``--on``: what is typed, and what cannot be."""

from __future__ import annotations

import builtins
import signal
import socket
from typing import Any

import pytest

from attnbench.kernels.errors import BadInput
from attnbench.scale.extras import need
from attnbench.scale.local import chosen_gpus
from attnbench.scale.ray import keeping_handlers, require_answer, room_for, wanted_of
from attnbench.scale.where import Local, Ray, Slurm, read_where


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("local", Local()),
        ("local:gpus=8", Local(gpus=8)),
        ("slurm:partition=gpu,timeout_min=30", Slurm(partition="gpu", timeout_min=30)),
        ("slurm:partition=7,constraint='h100,nvlink'", Slurm(partition="7", constraint="h100,nvlink")),
        ("ray:address=local,gpus=0", Ray(address="local", gpus=0)),
        ("ray:address=10.0.0.1:6379", Ray(address="10.0.0.1:6379")),
    ],
)
def test_an_engine_is_typed_with_its_settings(typed: str, meant: Any) -> None:
    assert read_where(typed) == meant


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("slrm", "unknown engine of --on 'slrm': did you mean 'slurm'"),
        ("", "unknown engine of --on ''"),
        ("slurm:partitio=x", "did you mean 'partition'"),
        ("slurm:partition", "'partition' must be setting=value"),
        ("slurm:jobs=2,jobs=3", "sets 'jobs' twice"),
        ("local:gpus=0", "gpus 0 must be 1 or more"),
        ("slurm:gpus_per_node=2", "gpus_per_node 2"),
        ("slurm:timeout_min=soon", "timeout_min 'soon'"),
        ("ray:gpus=1", "gpus is for address=local"),
    ],
)
def test_what_cannot_be_asked_is_quoted(typed: str, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        read_where(typed)
    assert said in str(refused.value)


@pytest.mark.parametrize(("package", "extra"), [("submitit", "slurm"), ("ray", "ray")])
def test_without_its_package_an_engine_says_how_to_get_it(
    package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str, *given: Any) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(BadInput, match=rf"^--on {extra} needs {package}: pip install 'attnbench\[{extra}\]'$"):
        need(package, extra)


def test_a_package_that_is_broken_is_not_called_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, *given: Any) -> Any:
        raise builtins.ImportError("libx.so cannot be opened", name="libx")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(BadInput, match=r"ray cannot be imported: libx\.so"):
        need("ray", "ray")


def test_gpus_of_one_kind_are_used_and_several_kinds_are_refused() -> None:
    gpus = {"0": "H100", "3": "H100", "5": "A100"}
    assert chosen_gpus(gpus, 2) == ["0", "3"]
    assert chosen_gpus({}, None) == []
    with pytest.raises(BadInput, match=r"mixed devices: GPU 0 is H100, 3 is H100, 5 is A100; .*CUDA_VISIBLE_DEVICES"):
        chosen_gpus(gpus, None)
    with pytest.raises(BadInput, match="local:gpus=4: this machine has 3 GPUs"):
        chosen_gpus(gpus, 4)


def test_an_address_where_no_cluster_is_is_told_at_once() -> None:
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{closed.getsockname()[1]}"
        for address in (place, f"ray://{place}", "127.0.0.1:99999"):
            with pytest.raises(BadInput, match=f"--on ray has no cluster at '{address}': "):
                require_answer(address)
    with socket.create_server(("127.0.0.1", 0)) as open_:
        require_answer(f"127.0.0.1:{open_.getsockname()[1]}")
    require_answer("auto")


def test_signals_get_their_handlers_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with keeping_handlers():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_ray_task_gets_one_gpu_or_all_cores_of_a_node() -> None:
    h100 = {"CPU": 64.0, "GPU": 8.0, "accelerator_type:H100": 1.0}
    a100 = {"CPU": 64.0, "GPU": 8.0, "accelerator_type:A100": 1.0}
    assert wanted_of([h100, {"CPU": 8.0}], None) == {"num_gpus": 1}
    assert room_for([h100, {"CPU": 8.0}], {"num_gpus": 1}) == 8
    assert room_for([h100, a100, a100], {"num_gpus": 1, "accelerator_type": "A100"}) == 16
    assert room_for([{"CPU": 2.0}, {"CPU": 4.0}, {"CPU": 4.0}], {"num_cpus": 4}) == 2
    assert wanted_of([{"CPU": 2.0}, {"CPU": 4.0}], None) == {"num_cpus": 4}
    assert wanted_of([h100, a100], "A100") == {"num_gpus": 1, "accelerator_type": "A100"}
    with pytest.raises(BadInput, match="mixed devices: the Ray cluster has A100, H100; choose"):
        wanted_of([h100, a100], None)
    with pytest.raises(BadInput, match="unknown accelerator of the Ray cluster 'H200'"):
        wanted_of([h100, a100], "H200")
