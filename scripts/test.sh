#!/usr/bin/env bash
# Environment, installation, code style, types of the public functions, and every test that is not slow; quick ones first.
# --all adds the slow ones: kills, several ranks, compiling for Ascend, benchmarks, the documentation site. Other arguments go to pytest:
#   bash scripts/test.sh tests/losses -k mask
#
# MINDLOC_DATA   a directory with real images: adds the tests on them; without it they are skipped and listed
# MINDLOC_VENV, MINDLOC_PYTHON   see environment.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$PROJECT"

all=no arguments=() seconds=""
for argument in "$@"; do
    if [ "$argument" = --all ]; then all=yes; else arguments+=("$argument"); fi
done

# timed NAME COMMAND...: run it and note how long it took; what fails ends the script, with the times so far
timed() {
    local name=$1 started=$SECONDS status=0
    shift
    "$@" || status=$?
    seconds+="${seconds:+, }$name $((SECONDS - started)) s"
    return $status
}
trap '[ -z "$seconds" ] || echo "$seconds"' EXIT

# tests MARK: two processes, each with files of its own; a choice that has no test of this mark is none the worse
tests() {
    local status=0
    "$PYTHON" -m pytest -n 2 --dist loadfile -m "$1" "${arguments[@]}" || status=$?
    if [ $status -eq 5 ] && [ $all = yes ]; then status=0; fi
    return $status
}

requirements=(requirements.txt requirements-onnx.txt requirements-milvus.txt requirements-test.txt)
if [ $all = yes ]; then requirements+=(requirements-docs.txt); fi
timed installation install "${requirements[@]}"
style() { "$PYTHON" -m ruff check . && "$PYTHON" -m ruff format --check .; }
timed style style
timed types "$PYTHON" -m mypy
timed tests tests "not slow"
if [ $all = yes ]; then timed "slow tests" tests slow; fi
