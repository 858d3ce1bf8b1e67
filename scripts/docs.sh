#!/usr/bin/env bash
# Environment, installation, and the documentation site, built into site/; open site/index.html. A warning is an error.
#
# MINDLOC_VENV, MINDLOC_PYTHON   see environment.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$PROJECT"

install requirements.txt requirements-docs.txt
NO_MKDOCS_2_WARNING=1 "$PYTHON" -m mkdocs build --strict "$@"
