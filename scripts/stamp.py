"""Print the commit of this checkout and the digest of its code, for a copy that travels without git.

ATTNBENCH_COMMIT=$(python scripts/stamp.py)     # where git is
pip install --no-deps --target FOLDER .         # where it is not; rows then say git_dirty, by what is installed
"""

from __future__ import annotations

from pathlib import Path

from attnbench.machine.code import stamp

if __name__ == "__main__":
    print(stamp(Path(__file__).resolve().parents[1]))
