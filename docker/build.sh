#!/usr/bin/env bash
# Build one of the images, with whatever engine there is.
#
#   docker/build.sh server|training|gadgetron [cpu|cuda]          → pass-NAME:DEVICE
#
# STAND_INS=1, as root on Debian: where no image registry can be reached, the base image is made of Debian's packages and
# torch for CPU is put into docker/wheels, see tests/images/stand_ins.sh. BASE_IMAGE names another base.
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1 device=${2:-cpu}
case $name in
server | training) base=${BASE_IMAGE:-docker.io/library/debian:bookworm-slim} argument=BASE_IMAGE ;;
gadgetron)
    suffix=nocuda && [ "$device" = cuda ] && suffix=cuda
    base=${BASE_IMAGE:-ghcr.io/gadgetron/gadgetron/gadgetron_ubuntu_rt_$suffix:latest} argument=GADGETRON_IMAGE
    ;;
*)
    echo "build.sh: no such image: $name; there are server, training and gadgetron" >&2
    exit 2
    ;;
esac
options=(--file "docker/$name.Dockerfile" --tag "pass-$name:$device" --build-arg "$argument=$base" --build-arg "DEVICE=$device")
version=${VERSION:-$(git describe --tags --match 'v*' --abbrev=0 2>/dev/null || echo v0.1.0)}
options+=(--build-arg "VERSION=${version#v}")
options+=(--build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
[ -n "${TORCH_INDEX+set}" ] && options+=(--build-arg "TORCH_INDEX=$TORCH_INDEX")

if [ "${STAND_INS:-0}" = 1 ]; then
    debian=docker.io/library/debian:bookworm-slim
    buildah inspect --type image $debian >/dev/null 2>&1 || bash tests/images/stand_ins.sh base $debian
    buildah inspect --type image "$base" >/dev/null 2>&1 || bash tests/images/stand_ins.sh gadgetron "$base" $debian
    [ "$device" = cuda ] || bash tests/images/stand_ins.sh wheels docker/wheels
    options+=(--build-arg TORCH_INDEX= --isolation chroot --network host --pull-never)
fi
if command -v buildah >/dev/null; then
    exec buildah bud --format docker "${options[@]}" .
elif command -v podman >/dev/null; then
    exec podman build --format docker "${options[@]}" .
else
    exec docker build "${options[@]}" .
fi
