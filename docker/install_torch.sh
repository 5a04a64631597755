#!/bin/sh
# Install torch for a device, then everything else of a lock, into the Python that is first on PATH.
#
#   install_torch.sh cpu|cuda INDEX LOCK        INDEX of CPU builds, empty for docker/wheels alone; LOCK as in docker/locks
set -eu
device=$1 index=$2 lock=$3
case $device in
cpu)
    if [ -n "$index" ]; then
        from="--index-url $index"
    else
        from=--no-index
    fi
    # shellcheck disable=SC2086 - two words on purpose
    pip install --no-deps $from --find-links docker/wheels -r docker/locks/torch-cpu.txt
    pip install --no-deps --require-hashes -r "docker/locks/$lock.txt"
    ;;
cuda) pip install --no-deps --require-hashes -r "docker/locks/$lock-cuda.txt" ;;
*)
    echo "install_torch.sh: DEVICE is cpu or cuda, not '$device'" >&2
    exit 2
    ;;
esac
# Tests, headers and compilers' tools: 300 MB that nothing here uses. What is compiled stays: the image is read-only.
site=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$site/torch/test" "$site/torch/include"
find "$site/torch/bin" -type f ! -name torch_shm_manager -delete
find "$site" -name "*.pyi" -delete
find "$site" -type d -name tests -prune -exec rm -rf {} +
