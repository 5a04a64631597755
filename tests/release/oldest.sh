#!/usr/bin/env bash
# The tests of the chain with the oldest versions that pyproject.toml allows, as published Gadgetron images have them.
#
#   oldest.sh FOLDER PYTHON        FOLDER of the virtual environment, made if it is missing
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$1 python=$2
if [ ! -e "$folder/.installed" ]; then
    "$python" -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check uv
    # ismrmrd 1.14 does not understand later versions of xsdata.
    "$folder/bin/uv" pip install --quiet --python "$folder/bin/python" --resolution lowest-direct -e '.[dicom,metrics]' \
        'xsdata<24' \
        'pytest>=8' 'pytest-timeout>=2.2' 'pytest-xdist>=3.5'
    touch "$folder/.installed"
fi
"$folder/bin/python" -c 'import ismrmrd, numpy, sys, torch; print(sys.version.split()[0], "numpy", numpy.__version__, "torch", torch.__version__)'
# Warnings of versions of years ago are not ours to mend.
exec "$folder/bin/python" -m pytest -q -W default -p no:cacheprovider \
    tests/physics tests/bundles tests/gadgets tests/command_line/test_recon.py tests/test_pipeline.py "${@:3}"
