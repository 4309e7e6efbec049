#!/usr/bin/env bash
# Run `attnbench gate` as the action's inputs say and keep what it printed and its exit code for later steps.
#   gate.sh OUT     writes gate.txt, gate.xml (JUnit) and exit-code to the folder OUT; always exits 0 once it has
# Inputs come from the environment: GATE_SUITE, GATE_AGAINST, GATE_BASELINE, GATE_RUN and GATE_OPTIONS (shell words).
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)

words=()
if [ -n "${GATE_OPTIONS:-}" ]; then
    # Words are split as a shell would, but nothing in them is expanded or run.
    mapfile -d '' -t words < <(python3 -c 'import os, shlex
for word in shlex.split(os.environ["GATE_OPTIONS"]):
    print(word, end="\0")')
fi
if [ -n "${GATE_BASELINE:-}" ]; then
    run=${GATE_RUN:-}
    if [ -z "$run" ]; then
        if [ -z "${GATE_SUITE:-}" ]; then
            echo "the gate action with a baseline needs run (a finished run) or suite (what to measure)" >&2
            exit 2
        fi
        run=$out/run
        # Its exit code is not asked for here: gate judges the cells that lack a latency.
        attnbench run --suite "$GATE_SUITE" --out "$run" || echo "attnbench run exited with $?"
    fi
    words=("$run" --baseline "$GATE_BASELINE" "${words[@]}")
elif [ -n "${GATE_AGAINST:-}" ]; then
    # A checkout of one commit lacks the commit that it is compared with.
    git cat-file -e "$GATE_AGAINST^{commit}" 2>/dev/null || git fetch --quiet --depth=1 origin "$GATE_AGAINST"
    words=(--against "$GATE_AGAINST" ${GATE_SUITE:+--suite "$GATE_SUITE"} "${words[@]}")
else
    echo "the gate action needs against (a commit) or baseline (a table)" >&2
    exit 2
fi

code=0
attnbench gate "${words[@]}" --junit "$out/gate.xml" 2>&1 | tee "$out/gate.txt" || code=${PIPESTATUS[0]}
echo "$code" >"$out/exit-code"
