"""`pass-recon openrecon`: what an Open Recon package for a Siemens scanner is built from."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

DESCRIPTION = """Write the folder from which an Open Recon package is built: a Dockerfile with the label that the
scanner's console reads, the start script, the configuration, a readme as PDF, and build.sh, which builds the image and
zips it as the scanner expects it. No scanner has run such a package yet. Research software, not for clinical use."""
EXAMPLE = "example: pass-recon openrecon -o openrecon && openrecon/build.sh"

_DOCKERFILE = """# Open Recon image of PASS {version}. Written by pass-recon openrecon.
ARG BASE_IMAGE={base}
FROM ${{BASE_IMAGE}}
# An Open Recon host starts the container as root, without a volume, with the port of the label.
USER 0:0
COPY start.sh /opt/openrecon/start.sh
COPY openrecon.xml /opt/openrecon/configurations/openrecon.xml
LABEL "{label_name}"="{label}"
ENTRYPOINT []
CMD ["/bin/sh", "/opt/openrecon/start.sh"]
"""
_START = """#!/bin/sh
# What the host runs: the server on the port of the label, with a warm process behind it.
exec pass-recon serve --host 0.0.0.0 --port {port} --configs /opt/openrecon/configurations \\
    --default-config openrecon.xml --resident
"""
_BUILD = """#!/bin/sh
# Build the image, and zip it with its readme as the scanner expects it: {stem}.zip
set -eu
cd "$(dirname "$0")"
engine=${{ENGINE:-$(command -v docker || command -v podman)}}
"$engine" build -t pass-openrecon:{version} .
rm -f {stem}.tar {stem}.zip
"$engine" save -o {stem}.tar pass-openrecon:{version}
python3 -m zipfile -c {stem}.zip {stem}.tar {stem}.pdf
rm {stem}.tar
echo "{stem}.zip"
"""
_README = """PASS {version} for Open Recon
Research software. Not a medical device, not for clinical use.

What it does: reconstructs undersampled 2D Cartesian scans, and looks for anomalies. Raw data in, images out.
Parameters of the console: {parameters}.

What the site must do:
1. Have Open Recon enabled on the scanner, with a research agreement with its vendor.
2. Build the image pass-server for the device that the scanner's computer has. A GPU there takes CUDA of at most
   11.8: build torch for it (docker/locks/server-cuda.txt holds a newer one), or use the CPU.
3. Check label.json against the schema of the vendor's development kit, and fill in regulatory_information.
4. Run build.sh, and install {stem}.zip on the scanner.
5. Scan a phantom, and compare with the vendor's reconstruction before anybody looks at the images.

What was not tried: a scanner. The image was run here, and spoken to as a scanner's host speaks.
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `openrecon` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "openrecon", help="write an Open Recon package to build", description=DESCRIPTION, epilog=EXAMPLE
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder to write; made if missing")
    parser.add_argument("--base-image", default="pass-server:cpu", help="image of the server; default: %(default)s")
    parser.add_argument("--vendor", default="PASS", help="who packages it, letters and digits; default: %(default)s")
    parser.add_argument(
        "--gpu-memory", type=int, default=0, metavar="MB", help="of a GPU, 0 for the CPU; default: %(default)s"
    )
    parser.add_argument("--memory", type=int, default=8192, metavar="MB", help="main memory; default: %(default)s")
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the folder."""
    from gadgets.openrecon import LABEL, label, metadata
    from pass_recon import __version__
    from pass_recon.common.files import written_aside
    from pass_recon.types import InputError
    from pass_recon_cli.configurations import packaged_configurations

    if args.memory <= 0 or args.gpu_memory < 0:
        raise InputError(f"--memory {args.memory} and --gpu-memory {args.gpu_memory} count megabytes")
    version = ".".join([*__version__.split("."), "0", "0"][:3])
    made = metadata(version, args.vendor, args.gpu_memory, args.memory)
    stem = f"OpenRecon_{args.vendor}_PASS_V{version}"
    names = ", ".join(one["id"] for one in made["parameters"])
    texts = {
        "Dockerfile": _DOCKERFILE.format(version=version, base=args.base_image, label_name=LABEL, label=label(made)),
        "start.sh": _START.format(port=made["reconstruction"]["port"]),
        "build.sh": _BUILD.format(stem=stem, version=version),
        "label.json": json.dumps(made, indent=2) + "\n",
        "openrecon.xml": (packaged_configurations() / "pass_recon_resident.xml").read_text(encoding="utf-8"),
        "README.txt": (readme := _README.format(version=version, parameters=names, stem=stem)),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with written_aside(args.out / name) as aside:
            aside.write_text(text, encoding="utf-8")
            aside.chmod(0o755 if name.endswith(".sh") else 0o644)
    with written_aside(args.out / f"{stem}.pdf") as aside:
        _write_pdf(aside, readme)
    sys.stdout.write(f"{args.out}: {len(made['parameters'])} parameters; {args.out}/build.sh makes {stem}.zip\n")
    return 0


def _write_pdf(path: Path, text: str) -> None:
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.27, 11.69))
    figure.text(0.06, 0.95, text, va="top", family="monospace", fontsize=8, wrap=True)
    with path.open("wb") as file:
        FigureCanvasPdf(figure).print_pdf(file)
