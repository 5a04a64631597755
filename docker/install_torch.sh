#!/bin/sh
# Install torch for a device, then everything else of a lock, into the Python that is first on PATH.
#
#   install_torch.sh cpu|cuda INDEX LOCK        INDEX of CPU builds, empty for docker/wheels alone; LOCK as in docker/locks
set -eu
device=$1 index=$2 lock=$3
case $device in
cpu)
    case $lock in gadgetron) torch=docker/locks/torch-cpu-3.10.txt ;; *) torch=docker/locks/torch-cpu.txt ;; esac
    if [ -z "$index" ]; then
        # shellcheck disable=SC2046 - two words on purpose: the versions, whoever has built them
        pip install --no-deps --no-index --find-links docker/wheels $(grep -o '^torch[a-z]*==[0-9.]*' "$torch")
    elif grep -q -- --hash "$torch"; then
        pip install --no-deps --require-hashes --index-url "$index" -r "$torch"
    else
        pip install --no-deps --index-url "$index" -r "$torch"
    fi
    pip install --no-deps --require-hashes -r "docker/locks/$lock.txt"
    ;;
cuda) pip install --no-deps --require-hashes -r "docker/locks/$lock-cuda.txt" ;;
*)
    echo "install_torch.sh: DEVICE is cpu or cuda, not '$device'" >&2
    exit 2
    ;;
esac
# Tests, headers, compilers' tools and pictures to play with: 300 MB that nothing here uses. What is compiled stays: the image is read-only.
site=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$site/torch/test" "$site/torch/include"
find "$site/torch/bin" -type f ! -name torch_shm_manager -delete
# scikit-image looks into its stubs when it is imported.
find "$site" -name "*.pyi" ! -path "$site/skimage/*" -delete
find "$site" -type d -name tests -prune -exec rm -rf {} +
rm -rf "$site/pydicom/data/test_files"
find "$site/skimage/data" -type f ! -name "*.py*" -delete
