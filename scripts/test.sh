#!/usr/bin/env bash
# Environment, installation, code style and all tests. Extra arguments go to pytest: bash scripts/test.sh tests/losses -k mask
# MINDLOC_DATA=/path/to/data adds the tests on real pictures; without it they are skipped and listed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$PROJECT"

install requirements.txt requirements-onnx.txt requirements-milvus.txt requirements-test.txt

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
exec "$PYTHON" -m pytest "$@"
