#!/bin/sh
# Install the plugin where a Gadgetron finds it: into the Python that it starts gadgets with, the first on PATH, and into
# its folder of configurations. To be run in the folder of the sources, as whoever may write there.
#
#   install_into_gadgetron.sh [cpu|cuda] [INDEX of torch's CPU builds, empty for docker/wheels]
set -eu
device=${1:-cpu} index=${2-https://download.pytorch.org/whl/cpu}
fail() {
    echo "install_into_gadgetron.sh: $1" >&2
    exit 1
}

server=$(command -v gadgetron) || fail "no gadgetron on PATH"
home=${GADGETRON_HOME:-$(dirname "$(dirname "$(readlink -f "$server")")")}
configurations=$home/share/gadgetron/config
[ -d "$configurations" ] || fail "there is no $configurations: set GADGETRON_HOME to the folder that Gadgetron is installed in"
version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "no python3 on PATH"
case $version in
3.10) lock=gadgetron ;; # numpy 1.26.4 and ismrmrd 1.14.0, as published images have them
3.11) lock=server ;;
*) fail "docker/locks has nothing for Python $version: use pip install . there" ;;
esac

sh docker/install_torch.sh "$device" "$index" "$lock"
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
python3 -m venv "$build/venv"
if [ "$version" = 3.11 ]; then hashes=--require-hashes; else hashes=; fi
# shellcheck disable=SC2086 - empty is no argument
"$build/venv/bin/pip" install $hashes -r docker/locks/build.txt
SETUPTOOLS_SCM_PRETEND_VERSION=${VERSION:-0.1.0} "$build/venv/bin/pip" wheel --no-deps --no-build-isolation -w "$build" .
python3 -m pip install --no-deps "$build"/*.whl
cp xml_configs/*.xml "$configurations/"
python3 -c 'import gadgets.resident' || fail "the plugin is installed but cannot be imported"
echo "installed into $(command -v python3), configurations in $configurations"
