#!/usr/bin/env bash
# Run mindloc with a Python that has MindSpore: MINDLOC_PYTHON if it is set, else the Python of this project's
# environment, else that of a platform's image. Nothing is installed. Works in any directory: bash scripts/run_mindloc.sh doctor
PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
gpu=${MINDLOC_VENV:-$PROJECT/.venv}/gpu.env # made by setup_gpu.sh: the libraries of MindSpore's GPU plugin
if [ -f "$gpu" ]; then source "$gpu"; fi
export PYTHONPATH=$PROJECT/src${PYTHONPATH:+:$PYTHONPATH}
export MINDLOC_PROGRAM="bash '${0//\'/\'\\\'\'}'" # the program's name in messages that suggest a command
[ -n "${MINDLOC_PYTHON:-}" ] && exec "$MINDLOC_PYTHON" -m mindloc "$@"
usable='import importlib.util, sys; sys.exit(sys.version_info < (3, 10) or not importlib.util.find_spec("mindspore"))'
for python in "${MINDLOC_VENV:-$PROJECT/.venv}/bin/python" python python3; do
    "$python" -c "$usable" 2>/dev/null && exec "$python" -m mindloc "$@"
done
echo "error: no Python 3.10 or newer with MindSpore found; set MINDLOC_PYTHON=/path/to/python" >&2
exit 2
