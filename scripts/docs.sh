#!/usr/bin/env bash
# Install into the environment and build the documentation site into site/; open site/index.html. Warnings are errors.
#
# MINDLOC_VENV, MINDLOC_PYTHON   see environment.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$PROJECT"

install requirements.txt requirements-docs.txt
NO_MKDOCS_2_WARNING=1 "$PYTHON" -m mkdocs build --strict "$@"
