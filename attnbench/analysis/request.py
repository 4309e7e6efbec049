"""The request as it was typed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from attnbench.analysis.call import How
from attnbench.analysis.measure import read_blocks
from attnbench.bench.sweep.knobs import refuse_taken
from attnbench.clips.prompts import check_prompts
from attnbench.inputs.seeds import SEEDS
from attnbench.kernels.errors import BadInput
from attnbench.methods import make_settings
from attnbench.methods.entries import Entry, as_entries
from attnbench.methods.registry import find_method
from attnbench.models.capture.request import MINI
from attnbench.results.records.cells import Record
from attnbench.results.records.faults import typed_fault


class AnalyzeRequest(Record):
    """The arguments of ``attnbench analyze``, as typed; None means the default."""

    command: Literal["analyze"] = "analyze"
    inputs: str | None = Field(default=None, description="video, gaussian or capture:FILE; none for a model that runs")
    model: str | None = None
    weights: str | None = None
    prompts: list[str] = Field(default_factory=list)
    layers: list[int] | None = None
    steps: list[int] | None = None
    sampler_steps: int | None = Field(default=None, description="denoising steps of a clip")
    guidance: float | None = None
    res: str | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    grid: str | None = None
    text_tokens: str | None = None
    heads: int | None = None
    head_dim: int | None = None
    queries: int | None = Field(default=None, ge=1, description="of each head that are looked at")
    block: list[Any] | None = Field(default=None, description="of the partitions")
    methods: Annotated[list[Entry], BeforeValidator(as_entries)] = Field(default_factory=list)
    density: float | None = Field(default=None, gt=0, le=1, description="that the methods are brought to")
    perturb: bool = Field(default=False, description="also replace the attention of layers, and compare the clips")
    perturb_steps: list[int] = Field(default_factory=list, description="steps in which a layer is replaced alone, too")
    seed: int = Field(default=0, ge=0)
    dtype: str | None = None
    device: str | None = None

    @property
    def how(self) -> How:
        """How calls are analysed."""
        block = None if self.block is None else read_blocks(self.block)
        return How(self.queries, block, self.seed, tuple(self.methods), self.density)


def read_request(**fields: Any) -> AnalyzeRequest:
    """Return the request with these fields, checked as far as that is possible without the model or the file.

    Raises:
        BadInput: if a field cannot be used; the message quotes it.
    """
    try:
        request = AnalyzeRequest.model_validate(fields)
    except ValidationError as error:
        raise BadInput(typed_fault(error)) from error
    check_prompts(request.prompts)
    for entry in request.methods:
        method = find_method(entry.method)
        make_settings(method, entry.settings)
        if request.density is not None:
            refuse_taken(method, entry.settings, by="--density")
    if request.perturb and (request.inputs is not None or request.model not in (None, MINI)):
        raise BadInput(f"{request.inputs or request.model!r} cannot be perturbed: --perturb is for the mini model")
    if request.perturb_steps and not request.perturb:
        raise BadInput(f"--perturb-steps {','.join(map(str, request.perturb_steps))} needs --perturb")
    if request.seed >= SEEDS:
        raise BadInput(f"seed {request.seed} must be a whole number from 0 to {SEEDS - 1}")
    _ = request.how
    return request
