#!/usr/bin/env bash
# Write the lock files beside this script: every package of an image with its version and the hashes of its files.
#
#   make locks                            from the configured package index, with uv
#
# torch and torchvision are locked apart, for CPU and CUDA, as their builds differ. The CPU builds lie on an index of
# their own: TORCH_INDEX names it, and their hashes are locked where it can be reached.
set -euo pipefail
cd "$(dirname "$0")/.."
UV=${UV:-uv}
TORCH_INDEX=${TORCH_INDEX-https://download.pytorch.org/whl/cpu}
TORCH=2.13.0 TORCHVISION=0.28.0 PYTHON=3.11
locks=docker/locks

pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
printf 'torch==%s\ntorchvision==%s\n' "$TORCH" "$TORCHVISION" >"$pins"

compile() {  # python version, output, then arguments of uv
    local python=$1 output=$2
    shift 2
    "$UV" pip compile --quiet --python-version "$python" --python-platform x86_64-manylinux_2_28 --generate-hashes \
        --no-annotate --no-header --output-file "$output" "$@"
}

# Everything but torch: what CPU and CUDA images have in common, and nothing that only a GPU needs.
without_cuda=(--no-emit-package torch --no-emit-package torchvision)
for package in triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
    nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
    nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx; do
    without_cuda+=(--no-emit-package "$package")
done
server=(--extra dicom --extra metrics)
compile $PYTHON $locks/server.txt pyproject.toml "${server[@]}" --constraint "$pins" "${without_cuda[@]}"
compile $PYTHON $locks/server-cuda.txt pyproject.toml "${server[@]}" --constraint "$pins"
compile $PYTHON $locks/training-cuda.txt pyproject.toml --extra data --extra train --constraint "$pins"

# What a published Gadgetron image holds, and beside which the plugin must live.
printf 'numpy==1.26.4\nismrmrd==1.14.0\nxsdata<24\n' >>"$pins"
compile 3.10 $locks/gadgetron.txt pyproject.toml "${server[@]}" --constraint "$pins" "${without_cuda[@]}"
compile 3.10 $locks/gadgetron-cuda.txt pyproject.toml "${server[@]}" --constraint "$pins"

printf 'setuptools>=77\nsetuptools-scm>=8\nwheel\n' | compile $PYTHON $locks/build.txt -

cpu=$(mktemp)
for python in $PYTHON 3.10; do
    if [ "$python" = "$PYTHON" ]; then lock=$locks/torch-cpu.txt; else lock=$locks/torch-cpu-$python.txt; fi
    if [ -n "$TORCH_INDEX" ] && printf 'torch==%s+cpu\ntorchvision==%s+cpu\n' "$TORCH" "$TORCHVISION" |
        compile "$python" "$cpu" --default-index "$TORCH_INDEX" --no-deps - 2>/dev/null; then
        cp "$cpu" "$lock"
    else
        echo "lock.sh: the index of CPU builds cannot be reached: $lock stays as it is" >&2
    fi
done
rm -f "$cpu"
