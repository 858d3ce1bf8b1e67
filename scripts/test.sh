#!/usr/bin/env bash
# Install into the environment, check code style and types, and run every test that is not slow. --all adds the slow tests:
# kills, several ranks, compiling for Ascend, benchmarks, the documentation site. Other arguments are passed to pytest:
#   bash scripts/test.sh tests/losses -k mask
#
# MINDLOC_DATA   a directory with real images for tests; without it the tests on real images are skipped and listed
# MINDLOC_VENV, MINDLOC_PYTHON   see environment.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$PROJECT"

all=no arguments=() seconds=""
for argument in "$@"; do
    if [ "$argument" = --all ]; then all=yes; else arguments+=("$argument"); fi
done

# timed NAME COMMAND...: run the command and record its time; if it fails, the script ends and prints the times so far
timed() {
    local name=$1 started=$SECONDS status=0
    shift
    "$@" || status=$?
    seconds+="${seconds:+, }$name $((SECONDS - started)) s"
    return $status
}
trap '[ -z "$seconds" ] || echo "$seconds"' EXIT

# tests MARK: run the tests of this mark in two processes; with --all, finding no test of the mark is not an error
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
