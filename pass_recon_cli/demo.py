"""`pass-recon demo`: a simulated patient, scanned in a closed loop, reconstructed, and compared with the truth."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pass_recon.anatomies import ANATOMIES
from pass_recon_cli.properties import add_property_options, properties_of
from pass_recon_cli.simulate import add_patient_options, simulated_patient

if TYPE_CHECKING:
    from gadgets.scanner.client import ScanReport

DESCRIPTION = """Simulate a patient, start the embedded server, scan the patient in a closed loop, and compare the
images with the truth: a table, and a picture and a page for the browser in the output folder. Simulated data, not for
clinical use."""
EXAMPLE = "example: pass-recon demo --anatomy knee --acceleration 8 -o knee_demo"
GROUP = "demo"
RESIDENT = "pass_recon_resident.xml"
PATIENCE_MS = "20000"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `demo` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo", help="scan and reconstruct a simulated patient, all in one", description=DESCRIPTION, epilog=EXAMPLE
    )
    add_patient_options(parser)
    add_property_options(parser, "acceleration", "bundle")
    parser.add_argument(
        "--config",
        default=RESIDENT,
        choices=("pass_recon.xml", "pass_recon_plain.xml", RESIDENT),
        help="chain to run; all but the resident one start their gadgets with the scan; default: %(default)s",
    )
    parser.add_argument("--tr", type=float, default=0.0, metavar="MS", help="milliseconds between lines; default: none")
    parser.add_argument("-o", "--output", type=Path, default=Path("demo_output"), help="folder; default: %(default)s")
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 only if every slice came back without an error."""
    from pass_recon.report.html import write_report
    from pass_recon_cli.demo_results import compare, table, write_figure
    from pass_recon_cli.images import scan_record

    properties_of(args)  # complain before any work
    args.output.mkdir(parents=True, exist_ok=True)
    patient, images, picture, page = (
        args.output / name for name in ("patient.h5", "images.h5", "demo.png", "report.html")
    )
    report = _simulate_and_scan(args, patient, images)
    for error in report.errors:
        sys.stderr.write(f"pass-recon demo: {error}\n")
    if not report.images:
        sys.stderr.write("pass-recon demo: no image came back\n")
        return 1
    results = compare(patient, images, GROUP, report)
    write_figure(picture, results, title=_title(args))
    write_report(page, scan_record(images, group=GROUP, truth=patient))
    sys.stdout.write(
        f"{table(results, report)}\n"
        f"{picture}: truth, reconstruction, error and plan of each slice\n"
        f"{page}: the scan for the browser, slice by slice\n"
        f"{patient}: the patient (MRD). {images}: the images.\n"
        "Simulated data, not for clinical use.\n"
    )
    return 1 if report.errors or len(results) < args.slices else 0


def _simulate_and_scan(args: argparse.Namespace, patient: Path, images: Path) -> ScanReport:
    from gadgets.converters.patient_file import write_patient
    from pass_recon_cli.local_server import LocalProcess, write_configuration

    with contextlib.ExitStack() as stack:
        # The processes start while the patient is being simulated.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pass-recon-")))
        server = LocalProcess("serve", "--port", "0", "--configs", str(folder), log=args.output / "server.log")
        stack.enter_context(server)
        resident = None
        if args.config == RESIDENT:
            options = ("--port", "0", "--bundle", args.bundle, "--acceleration", args.acceleration)
            resident = stack.enter_context(LocalProcess("resident", *options, log=args.output / "resident.log"))
        _say("simulating a patient while the server starts …")
        write_patient(patient, simulated_patient(args))
        properties = {"acceleration": args.acceleration, "bundle": args.bundle, "mode": "closed_loop"}
        # The simulated scanner has no patient in it: on a busy laptop it may wait longer than a real one would.
        properties["plan_deadline_ms"] = PATIENCE_MS
        write_configuration(args.config, folder, properties, resident.port() if resident else None)
        _say("scanning in a closed loop: ACS, plan, planned lines …")
        return _scan(args, patient, images, server.port())


def _scan(args: argparse.Namespace, patient: Path, images: Path, port: int) -> ScanReport:
    from gadgets.mrd.scan_file import ScanFile
    from gadgets.scanner.client import ScanSettings
    from pass_recon_cli.scan import scan_with_progress

    settings = ScanSettings(
        address="127.0.0.1",
        port=port,
        config=args.config,
        group=GROUP,
        closed_loop=True,
        acceleration=float(args.acceleration),
        repetition_time=args.tr / 1000,
    )
    with ScanFile(patient) as source:
        return scan_with_progress(source, images, settings, quiet=False)


def _title(args: argparse.Namespace) -> str:
    contrast = args.contrast or ANATOMIES[args.anatomy].contrasts[0]
    return f"{args.anatomy.capitalize()} {contrast.upper()}, {float(args.acceleration):g}× accelerated, closed loop"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
