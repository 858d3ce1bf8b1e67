#!/usr/bin/env bash
# mindloc with the Python that has MindSpore: the one named by MINDLOC_PYTHON, this project's environment, or that
# of a platform's image. Nothing is installed. From any directory, e.g.: bash scripts/run_mindloc.sh doctor
PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
gpu=${MINDLOC_VENV:-$PROJECT/.venv}/gpu.env # made by setup_gpu.sh: the libraries of MindSpore's GPU plugin
if [ -f "$gpu" ]; then source "$gpu"; fi
export PYTHONPATH=$PROJECT/src${PYTHONPATH:+:$PYTHONPATH}
export MINDLOC_PROGRAM="bash '${0//\'/\'\\\'\'}'" # what the program calls itself where it names a command to run next
[ -n "${MINDLOC_PYTHON:-}" ] && exec "$MINDLOC_PYTHON" -m mindloc "$@"
usable='import importlib.util, sys; sys.exit(sys.version_info < (3, 10) or not importlib.util.find_spec("mindspore"))'
for python in "${MINDLOC_VENV:-$PROJECT/.venv}/bin/python" python python3; do
    "$python" -c "$usable" 2>/dev/null && exec "$python" -m mindloc "$@"
done
echo "error: no Python 3.10 or newer with MindSpore found; name one: MINDLOC_PYTHON=/path/to/python" >&2
exit 2
