#!/usr/bin/env bash
# What continuous integration cannot check: the CUDA path, on a machine with an NVIDIA GPU.
#   scripts/gpu_check.sh OUT     writes journals and a log to the folder OUT
# Where the checkout has travelled without git, set ATTNBENCH_COMMIT to what scripts/stamp.py printed where git was.
# Needs attnbench's dependencies, pytest and hypothesis. attnbench itself is installed from this checkout into a scratch
# folder.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
scratch=$(mktemp -d)
python3 -m pip install --quiet --no-deps --no-build-isolation --target "$scratch" .
export PYTHONPATH="$scratch${PYTHONPATH:+:$PYTHONPATH}"
export ATTNBENCH_COMMIT=${ATTNBENCH_COMMIT:-$(python3 "$root/scripts/stamp.py" 2>/dev/null || true)}
cd "$scratch"
attnbench() { python3 -c 'from attnbench.cli import main; main()' "$@"; }

{
    echo "commit $ATTNBENCH_COMMIT"
    attnbench doctor
    failed=()
    python3 -m pytest --rootdir "$root" -c "$root/pyproject.toml" -p no:cacheprovider "$root/tests/gpu" \
        || failed+=("tests/gpu")
    python3 "$root/scripts/time_kernels.py" || failed+=("time_kernels")
    for dtype in bfloat16 float16 float32; do
        for direction in fwd fwdbwd; do
            attnbench run --method all --grid 5x13x18 --heads 4 --kv-heads 2 --head-dim 64 --dtype $dtype --direction $direction \
                --inputs gaussian --budget 20 --rounds 3 --out "$out/small-$dtype-$direction"
        done
    done
    attnbench run --method all --res 480p --budget 60 --out "$out/480p"
    attnbench run --method all --res 480p --direction fwdbwd --budget 60 --out "$out/480p-fwdbwd"
    attnbench run --method all --res 576p --budget 60 --out "$out/576p"
    attnbench run --method all --res 720p --budget 60 --out "$out/720p"
    if [ ${#failed[@]} -gt 0 ]; then
        echo "failed: ${failed[*]}"
        exit 1
    fi
} 2>&1 | tee "$out/log.txt"
