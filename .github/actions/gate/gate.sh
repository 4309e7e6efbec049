#!/usr/bin/env bash
# Run `attnbench gate` as the action's inputs say and keep what it printed and its exit code for later steps.
#   gate.sh OUT     writes gate.txt, gate.xml (JUnit) and exit-code to the folder OUT; always exits 0 once it has
# Inputs come from the environment: GATE_SUITE, GATE_AGAINST, GATE_BASELINE, GATE_RUN and GATE_OPTIONS (shell words).
# The exit code also goes to GITHUB_OUTPUT, and the text to GITHUB_STEP_SUMMARY, where they are set.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
# What an earlier gate of this job left is no result of this one.
rm -f "$out/gate.txt" "$out/gate.xml" "$out/exit-code"

finish() {
    echo "$1" >"$out/exit-code"
    [ -z "${GITHUB_OUTPUT:-}" ] || echo "exit-code=$1" >>"$GITHUB_OUTPUT"
    # GitHub takes 1 MiB. Nothing in the text can end a block that is indented.
    [ -z "${GITHUB_STEP_SUMMARY:-}" ] || head -c 900000 "$out/gate.txt" | tr -d '\r' | sed 's/^/    /' >>"$GITHUB_STEP_SUMMARY"
    exit 0
}

# What the action cannot do is a result too: the comment on a pull request says it.
refuse() {
    echo "the gate action: $1" | tee "$out/gate.txt" >&2
    finish 2
}

words=()
if [ -n "${GATE_OPTIONS:-}" ]; then
    # Words are split as a shell would, but nothing in them is expanded or run.
    split='import os, shlex
for word in shlex.split(os.environ["GATE_OPTIONS"]):
    print(word, end="\0")'
    python3 -c "$split" >"$out/.words" 2>/dev/null || refuse "options '$GATE_OPTIONS' are no shell words; is a quote open?"
    mapfile -d '' -t words <"$out/.words"
    rm "$out/.words"
fi
if [ -n "${GATE_BASELINE:-}" ]; then
    run=${GATE_RUN:-}
    if [ -z "$run" ]; then
        [ -n "${GATE_SUITE:-}" ] || refuse "a baseline needs run (a finished run) or suite (what to measure)"
        run=$out/run
        rm -rf "$run"
        # Its exit code is not asked for here: gate judges the cells that lack a latency.
        attnbench run --suite "$GATE_SUITE" --out "$run" || echo "attnbench run exited with $?"
    fi
    words=("$run" --baseline "$GATE_BASELINE" "${words[@]}")
elif [ -n "${GATE_AGAINST:-}" ]; then
    # A checkout of one commit lacks the commit that it is compared with, and all branches but its own.
    if ! git cat-file -e "$GATE_AGAINST^{commit}" 2>/dev/null; then
        git fetch --quiet --depth=1 -- origin "$GATE_AGAINST" 2>/dev/null || refuse "origin has no commit '$GATE_AGAINST'"
        GATE_AGAINST=$(git rev-parse FETCH_HEAD)
    fi
    words=(--against "$GATE_AGAINST" ${GATE_SUITE:+--suite "$GATE_SUITE"} "${words[@]}")
else
    refuse "it needs against (a commit) or baseline (a table)"
fi

code=0
attnbench gate "${words[@]}" --junit "$out/gate.xml" 2>&1 | tee "$out/gate.txt" || code=${PIPESTATUS[0]}
finish "$code"
