#!/usr/bin/env bash
# Install the CUDA 11 libraries that MindSpore's GPU plugin requires from PyPI into the environment (.venv), and write a
# file to source, .venv/gpu.env. The driver is not installed: it must be on the machine already. More: docs/gpu.md.
#
# MINDLOC_VENV and MINDLOC_PYTHON: see environment.sh. pip's own settings (PIP_FIND_LINKS, ...) apply too.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$PROJECT"

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || {
    echo "error: MindSpore's GPU plugin exists for Linux on x86_64 only, this is $(uname -s) on $(uname -m)" >&2
    exit 2
}
install requirements.txt

# cuDNN 9 has different file names, so the plugin would not find it
packages=(nvidia-cublas-cu11 nvidia-cufft-cu11 nvidia-curand-cu11 nvidia-cusolver-cu11 nvidia-cusparse-cu11
    "nvidia-cuda-nvrtc-cu11==11.8.*" "nvidia-cuda-runtime-cu11==11.8.*" "nvidia-cudnn-cu11>=8.5,<9")
echo "installing ${#packages[@]} packages of CUDA libraries into $VENV (1.7 GB to fetch, 2.9 GB on disk)"
"$PYTHON" -m pip install --quiet --disable-pip-version-check "${packages[@]}" || {
    echo "error: pip could not install the CUDA libraries; see pip's message above" >&2
    exit 2
}

# a directory with the layout of a CUDA installation, with links to the libraries that the plugin loads, also indirectly
cuda=$VENV/cuda-11.6
rm -rf "$cuda"
mkdir -p "$cuda/bin" "$cuda/lib64"
packed=$("$PYTHON" -c 'import nvidia; print(list(nvidia.__path__)[0])')
for library in cuda_runtime/lib/libcudart.so.11.0 cublas/lib/libcublas.so.11 cublas/lib/libcublasLt.so.11 \
    cufft/lib/libcufft.so.10 curand/lib/libcurand.so.10 cusolver/lib/libcusolver.so.11 cusparse/lib/libcusparse.so.11 \
    cuda_nvrtc/lib/libnvrtc.so.11.2 cuda_nvrtc/lib/libnvrtc-builtins.so.11.8 cudnn/lib/libcudnn.so.8 \
    cudnn/lib/libcudnn_{ops,cnn,adv}_{infer,train}.so.8; do
    [ -e "$packed/$library" ] || {
        echo "error: $packed/$library is missing; its package has a different version than expected, install it again" >&2
        exit 2
    }
    ln -s "$packed/$library" "$cuda/lib64/"
done

# MindSpore reads versions from file names: that of the CUDA runtime to choose the directory of its kernels (MindSpore has
# 11.1 and 11.6; the libraries of 11.8 run programs of 11.6), and that of cuDNN to decide whether to warn
ln -s libcudart.so.11.0 "$cuda/lib64/libcudart.so.11.6.124"
cudnn=$("$PYTHON" -c 'from importlib import metadata; print(metadata.version("nvidia-cudnn-cu11"))')
ln -s libcudnn.so.8 "$cuda/lib64/libcudnn.so.$(echo "$cudnn" | cut -d. -f1-3)"

# MindSpore's loader reads the version of CUDA from the output of this program, and uses nothing else of it
cat >"$cuda/bin/nvcc" <<'END'
#!/bin/sh
echo "Cuda compilation tools, release 11.6, V11.6.124"
END
chmod +x "$cuda/bin/nvcc"

cat >"$VENV/gpu.env" <<END
# source this before a command that is to run on a GPU by MindSpore's own plugin
export CUDA_HOME="$cuda"
case ":\${LD_LIBRARY_PATH:-}:" in
*":\$CUDA_HOME/lib64:"*) ;;
*) export LD_LIBRARY_PATH="\$CUDA_HOME/lib64\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" ;;
esac
END

echo "the libraries are in place; before training: source $VENV/gpu.env"
use_gpu_libraries
"$PYTHON" -m mindloc doctor --device_target GPU || echo "what is still missing, and the way out, is listed above"
