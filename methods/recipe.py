"""What published recipes share: steps and layers that stay dense, and what becomes of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from attnbench.kernels.errors import BadInput
from attnbench.methods.checks import as_flag, as_ints

if TYPE_CHECKING:
    from attnbench.methods.base import Call


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that a method's own settings inherit. A subclass with ``__post_init__`` calls that of this class.

    Attributes:
        dense_steps: denoising steps at the beginning that run full attention, without the method's branch. A call that
            names no step is in none of them.
        dense_layers: layers at the beginning that do.
        text_dense: whether text keeps every key and is kept by every query. Only methods whose class says
            ``TEXT_MAY_BE_ORDINARY`` can treat text as ordinary tokens.

    Raises:
        BadInput: for a value out of range.
    """

    TEXT_MAY_BE_ORDINARY: ClassVar[bool] = False

    dense_steps: int = 0
    dense_layers: int = 0
    text_dense: bool = True

    def __post_init__(self) -> None:
        for name in ("dense_steps", "dense_layers"):
            object.__setattr__(self, name, as_ints(name, getattr(self, name), low=0))
        as_flag("text_dense", self.text_dense)
        if not self.text_dense and not self.TEXT_MAY_BE_ORDINARY:
            raise BadInput("text_dense is False; this method is published with dense text only: leave it True")


def dense_steps_of(settings: Any) -> int:
    """Return how many denoising steps at the beginning run full attention."""
    return settings.dense_steps if isinstance(settings, Recipe) else 0


def dense_layers_of(settings: Any) -> int:
    """Return how many layers at the beginning run full attention."""
    return settings.dense_layers if isinstance(settings, Recipe) else 0


def has_dense_text(settings: Any) -> bool:
    """Return whether text keeps every key and is kept by every query."""
    return settings.text_dense if isinstance(settings, Recipe) else True


def runs_dense(settings: Any, call: Call) -> bool:
    """Return whether a call is in the dense steps or layers of its recipe. The call is read only where it matters."""
    layers, steps = dense_layers_of(settings), dense_steps_of(settings)
    if layers and call.layer < layers:
        return True
    return bool(steps) and call.step is not None and call.step < steps
