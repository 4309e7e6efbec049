#!/usr/bin/env bash
# Measure the tables of results/h100 on the machine at hand: full attention, VMoBA and STA at the three lengths, on both
# kinds of inputs, forward, and forward with backward; 12 heads of 128, bfloat16.
#   scripts/h100_tables.sh OUT [BUDGET]   journals go to OUT/<resolution>-<inputs>-<direction>.jsonl, about BUDGET s each
# Needs attnbench's dependencies and engines; attnbench itself is installed from this checkout into a scratch folder.
# Where the checkout has travelled without git, give the commit as ATTNBENCH_COMMIT=….
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
budget=${2:-20}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scratch=$(mktemp -d)
python3 -m pip install --quiet --no-deps --no-build-isolation --target "$scratch" .
export PYTHONPATH="$scratch${PYTHONPATH:+:$PYTHONPATH}"
export ATTNBENCH_COMMIT=${ATTNBENCH_COMMIT:-$(git rev-parse --verify --quiet HEAD || true)}
for res in 576p 720p 480p; do
    tile=6,8,8
    if [ "$res" = 576p ]; then tile=6,4,16; fi
    for direction in fwd fwdbwd; do
        for inputs in gaussian video; do
            name=$res-$inputs-$direction
            python3 -c 'from attnbench.cli import main; main()' run --res "$res" --inputs "$inputs" \
                --direction "$direction" --budget "$budget" --method full --method vmoba --method sta \
                --set "sta.tile=$tile" --out "$scratch/$name" || echo "$name: exit code $?"
            if [ -f "$scratch/$name/journal.jsonl" ]; then cp "$scratch/$name/journal.jsonl" "$out/$name.jsonl"; fi
        done
    done
done
