"""Files of safetensors: checked before they are read, and written with the usual permissions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from attnbench.inputs.files import open_file
from attnbench.kernels.errors import BadInput


def check_safetensors(path: Path) -> None:
    """Check a file's header, and that it is as long as the header says.

    Raises:
        BadInput: if the file is pickled, truncated, or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with open_file(path) as file:
            start = file.read(2)
    except OSError as error:
        raise BadInput(f"weights {str(path)!r} cannot be read: {error.strerror}") from error
    if start == b"PK" or (start[:1] == b"\x80" and start[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        raise BadInput(f"weights {str(path)!r} are pickled, which may run code when read: only safetensors are taken")
    try:
        with safe_open(str(path), framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise BadInput(f"weights {str(path)!r} are truncated, or not a safetensors file") from error


def save_tensors(tensors: Mapping[str, Tensor], path: Path, header: Mapping[str, str]) -> None:
    """Write a file with the rights of any new one here; safetensors 0.8 gives its files to their owner alone.

    Raises:
        OSError, SafetensorError: if it cannot be written.
    """
    from safetensors.torch import save_file

    path.touch()
    rights = path.stat().st_mode
    save_file(dict(tensors), path, metadata=dict(header))
    path.chmod(rights)
