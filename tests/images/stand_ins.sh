#!/usr/bin/env bash
# Where no image registry and no index of torch's CPU builds can be reached: what a build needs from elsewhere, made from
# Debian's packages and PyPI. As root on Debian, with mmdebstrap and buildah.
#
#   stand_ins.sh base NAME        a minimal Debian, known under the name that a Dockerfile asks for
#   stand_ins.sh gadgetron NAME BASE    an image laid out as Gadgetron's: its environment first on PATH, and the folder of
#                                       configurations; its server is the embedded one, and does not compute
#   stand_ins.sh wheels FOLDER    torch for CPU, and a torchvision that imports beside it
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

base() {
    local name=$1 container
    mmdebstrap --mode=root --variant=minbase --include=ca-certificates --quiet \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$work/root.tar"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/root.tar" /
    # This machine may reach its registries through certificates of its own.
    buildah copy --quiet "$container" /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
    buildah config --env PIP_CERT=/etc/ssl/certs/ca-certificates.crt --cmd bash "$container"
    buildah commit --quiet --rm "$container" "$name"
}

gadgetron() {
    local name=$1 base=$2 home=/opt/conda/envs/gadgetron container
    cat >"$work/gadgetron" <<'SCRIPT'
#!/bin/sh
exec pass-recon serve --port 19004 --configs /opt/conda/envs/gadgetron/share/gadgetron/config
SCRIPT
    chmod 755 "$work/gadgetron"
    container=$(buildah from --pull-never "$base")
    buildah run --isolation chroot --network host "$container" -- sh -ec "apt-get update -qq
        apt-get install -y -qq --no-install-recommends python3 python3-venv
        python3 -m venv $home && mkdir -p $home/share/gadgetron/config" >/dev/null
    buildah copy --quiet "$container" "$work/gadgetron" $home/bin/gadgetron
    buildah config --env "PATH=$home/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "$container"
    buildah commit --quiet --rm "$container" "$name"
}

wheels() {
    local folder=$1
    ls "$folder"/torchvision-*.whl >/dev/null 2>&1 && return
    ls "$folder"/torch-2.*cpu*.whl >/dev/null 2>&1 ||
        python3 -m pip download --quiet --no-deps --dest "$folder" 'torch==2.13.0'
    python3 -m pip download --quiet --no-deps --dest "$work" 'torchvision==0.28.0'
    # PyPI's torchvision is linked against CUDA. Its compiled operators are not used here; without them it still wants to
    # know of two.
    python3 -m pip install --quiet --no-deps --target "$work/wheel" wheel
    export PYTHONPATH=$work/wheel
    python3 -m wheel unpack --dest "$work" "$work"/torchvision-*.whl
    rm -rf "$work"/torchvision-0.28.0/torchvision/*.so "$work"/torchvision-0.28.0/torchvision.libs
    for operator in nms qnms; do
        echo "torch.library.define('torchvision::$operator', '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')"
    done >>"$work/torchvision-0.28.0/torchvision/extension.py"
    python3 -m wheel pack --dest-dir "$folder" "$work/torchvision-0.28.0"
}

"$@"
