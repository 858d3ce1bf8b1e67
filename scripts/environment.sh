#!/usr/bin/env bash
# Sourced by the other scripts: defines the function install, which creates the environment .venv, and sets PYTHON.
#
# MINDLOC_VENV   directory of the environment, instead of .venv
# MINDLOC_PYTHON the Python that creates the environment (3.10, 3.11 or 3.12)

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${MINDLOC_VENV:-$PROJECT/.venv}

find_python() {
    local candidate
    for candidate in ${MINDLOC_PYTHON:-python3.11 python3.12 python3.10 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "error: no Python 3.10, 3.11 or 3.12 found; install one, or set MINDLOC_PYTHON=/path/to/python3.11" >&2
    return 1
}

# install FILE...: install the requirements files, with versions pinned for CPU machines, and mindloc itself as a link to
# this directory. Nothing is installed again until one of these files changes.
install() {
    local python stamp file arguments=()
    for file in "$@"; do arguments+=(-r "$PROJECT/$file"); done
    stamp=$(cd "$PROJECT" && cat "$@" constraints-cpu.txt pyproject.toml | cksum)
    if [ -x "$VENV/bin/python" ] && grep -qxF "$stamp" "$VENV/installed" 2>/dev/null; then
        return
    fi
    python=$(find_python) || return 1
    echo "installing into $VENV with $("$python" --version) (about a minute, 3 GB)"
    [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV" || {
        echo "error: $python could not create an environment; on Debian and Ubuntu: apt-get install python3-venv" >&2
        return 1
    }
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "${arguments[@]}" -c "$PROJECT/constraints-cpu.txt" || {
        echo "error: pip could not install ${*}; see pip's message above" >&2
        return 1
    }
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable "$PROJECT" || {
        echo "error: pip could not install mindloc itself; see pip's message above" >&2
        return 1
    }
    echo "$stamp" >>"$VENV/installed"
}

# use_gpu_libraries: set CUDA_HOME and LD_LIBRARY_PATH for MindSpore's GPU plugin, if setup_gpu.sh was run
use_gpu_libraries() {
    if [ -f "$VENV/gpu.env" ]; then source "$VENV/gpu.env"; fi
}

PYTHON=$VENV/bin/python
export GLOG_v=${GLOG_v:-3} # MindSpore's log: errors only
