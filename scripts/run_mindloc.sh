#!/usr/bin/env bash
# python -m mindloc with the Python that has MindSpore: MINDLOC_PYTHON, this project's environment (scripts/environment.sh),
# or the one of a platform's image. Nothing is installed; works from any folder: bash scripts/run_mindloc.sh doctor
PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
gpu=${MINDLOC_VENV:-$PROJECT/.venv}/gpu.env # made by setup_gpu.sh: the libraries of MindSpore's GPU plugin
if [ -f "$gpu" ]; then source "$gpu"; fi
export PYTHONPATH=$PROJECT/src${PYTHONPATH:+:$PYTHONPATH}
for python in "${MINDLOC_PYTHON:-}" "${MINDLOC_VENV:-$PROJECT/.venv}/bin/python" python python3; do
    [ -n "${MINDLOC_PYTHON:-}" ] && exec "$MINDLOC_PYTHON" -m mindloc "$@"
    "$python" -c 'import importlib.util as u, sys; sys.exit(sys.version_info < (3, 10) or not u.find_spec("mindspore"))' \
        2>/dev/null && exec "$python" -m mindloc "$@"
done
echo "error: no Python with MindSpore here; run bash scripts/quickstart.sh once, or name one: MINDLOC_PYTHON=/path/to/python" >&2
exit 2
