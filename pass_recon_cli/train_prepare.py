"""`pass-recon train prepare`: bring fastMRI, magnitude volumes or simulated patients to the form that training reads.

Run again it takes up where it stopped, and adds to what is there. `manifest.json` in the dataset lists its cases, the
split by patient, and what was skipped and why.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pass_recon.anatomies import ANATOMIES

if TYPE_CHECKING:
    from training.data.fastmri_plus import Annotations
    from training.data.jobs import Job, Outcome
    from training.data.manifest import SplitSettings

EXAMPLES = """examples:
  pass-recon train prepare --fastmri multicoil_train --annotations brain.csv --file-list brain_file_list.csv -o brain
  pass-recon train prepare --nifti open_ms -o brain
  pass-recon train prepare --simulated 200 --anatomy knee --contrast pd -o knee
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `prepare` to the training commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "prepare",
        help="bring data to the form that training reads",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--fastmri", type=Path, metavar="DIR", help="multi-coil fastMRI files, in folders below too")
    source.add_argument("--nifti", type=Path, metavar="DIR", help="magnitude volumes, NAME_lesions.nii.gz beside them")
    source.add_argument("--simulated", type=int, metavar="N", help="simulate N patients")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DATASET", help="folder; is added to")
    _add_fastmri_options(parser.add_argument_group("fastMRI"))
    _add_simulation_options(parser.add_argument_group("simulated acquisition (--nifti, --simulated)"))
    _add_split_options(parser.add_argument_group("split"))
    work = parser.add_argument_group("work")
    work.add_argument("--matrix", type=int, nargs=2, default=(320, 320), metavar=("RO", "PE"), help="default: 320 320")
    work.add_argument("--workers", type=int, default=0, metavar="N", help="processes; default: one a core")
    work.add_argument("--scheduler", default="", metavar="tcp://…", help="Dask scheduler whose workers do the work")
    return parser


def _add_fastmri_options(group: Any) -> None:
    group.add_argument("--annotations", type=Path, nargs="+", default=[], metavar="CSV", help="fastMRI+ (brain.csv)")
    group.add_argument(
        "--file-list", type=Path, nargs="+", default=[], metavar="CSV", help="reviewed files (brain_file_list.csv)"
    )
    group.add_argument(
        "--acquisitions", nargs="+", metavar="NAME", help="in fastMRI's words, or all; default: AXT1 AXFLAIR CORPD_FBK"
    )
    group.add_argument(
        "--own-split", action="store_true", help="fastMRI's, by the folders multicoil_train, …_val and …_test"
    )
    group.add_argument(
        "--resimulate",
        action="store_true",
        help="make k-space from the coil-combined image as the paper did; flatters every result by 2 to 5 dB",
    )


def _add_simulation_options(group: Any) -> None:
    group.add_argument("--anatomy", choices=tuple(ANATOMIES), default="brain", help="default: %(default)s")
    group.add_argument("--contrast", help="t1, flair, pd …; default: from a volume's name; for patients the usual one")
    group.add_argument("--coils", type=int, default=12, metavar="N", help="default: %(default)s")
    group.add_argument(
        "--noise",
        type=float,
        default=0.01,
        metavar="SIGMA",
        help="of a coil image, fraction of the peak; default: 0.01",
    )
    group.add_argument("--slices", type=int, default=8, metavar="N", help="of a simulated patient; default: 8")
    group.add_argument("--lesions", type=int, default=4, metavar="N", help="most of a simulated patient; default: 4")
    group.add_argument(
        "--healthy", type=float, default=0.3, metavar="FRACTION", help="patients without lesions; default: %(default)s"
    )
    group.add_argument("--paint", type=int, default=0, metavar="N", help="simulated lesions to paint into each volume")
    group.add_argument(
        "--lesion-label",
        default="Nonspecific white matter lesion",
        metavar="TEXT",
        help="what lesion masks show; default: %(default)s",
    )


def _add_split_options(group: Any) -> None:
    group.add_argument(
        "--split",
        type=float,
        nargs=3,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="fractions of the patients; default: 0.8 0.1 0.1",
    )
    group.add_argument("--seed", type=int, default=0, help="of simulations, and of a new dataset's split; default: 0")
    group.add_argument("--split-seed", type=int, metavar="SEED", help="default: that of the dataset, or --seed")


def run(args: argparse.Namespace) -> int:
    """Prepare, describe, report."""
    from pass_recon.types import InputError
    from training.data.jobs import run_jobs, space_for
    from training.data.manifest import write_manifest
    from training.engine.amounts import gigabytes

    jobs = _jobs(args)
    settings = _split_settings(args)
    space = space_for(jobs, args.output)
    _say(f"{args.output} will take about {gigabytes(space.needed)} more; {gigabytes(space.free)} are free there")
    if space.needed > space.free:
        raise InputError(
            f"{args.output} needs about {gigabytes(space.needed)} and has {gigabytes(space.free)}: give another "
            "folder, fewer files or acquisitions, or a smaller --matrix"
        )
    outcomes = run_jobs(jobs, args.output, workers=args.workers, scheduler=args.scheduler)
    manifest = write_manifest(args.output, settings, outcomes)
    _report(args.output, manifest, outcomes)
    if not manifest["cases"]:
        raise InputError(f"no case could be prepared: {_reasons(outcomes)}")
    return 0


def _jobs(args: argparse.Namespace) -> list[Job]:
    from pass_recon.types import InputError

    if args.workers < 0 or (args.simulated is not None and args.simulated < 1):
        raise InputError(f"numbers of workers and patients must be positive, got {args.workers} and {args.simulated}")
    if args.simulated is not None:
        return _simulated_jobs(args)
    folder = args.fastmri or args.nifti
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder")
    jobs = _fastmri_jobs(args) if args.fastmri else _nifti_jobs(args)
    if not jobs:
        raise InputError(f"{folder} holds no {'fastMRI files (*.h5)' if args.fastmri else 'volumes (*.nii, *.nii.gz)'}")
    return jobs


def _fastmri_jobs(args: argparse.Namespace) -> list[Job]:
    from training.data.fastmri import FastMriJob, FastMriSettings
    from training.data.fastmri_file import DEFAULT_ACQUISITIONS
    from training.data.fastmri_plus import read_annotations

    annotations = read_annotations(args.annotations, args.file_list)
    if args.annotations or args.file_list:
        _report_annotations(annotations)
    asked = tuple(args.acquisitions or DEFAULT_ACQUISITIONS)
    wanted = () if "all" in asked else asked
    settings = FastMriSettings(wanted, tuple(args.matrix), args.resimulate, own_split=args.own_split)
    # The dataset may lie inside the folder that it is made from.
    made = set(args.output.glob("*.h5"))
    paths = sorted((path for path in args.fastmri.rglob("*.h5") if path not in made), key=lambda path: path.name)
    return [FastMriJob(path, settings, annotations.of(path.stem)) for path in paths]


def _nifti_jobs(args: argparse.Namespace) -> list[Job]:
    from training.data.nifti import VolumeSettings, find_volumes

    settings = VolumeSettings(
        anatomy=args.anatomy,
        contrast=args.contrast or "",
        shape=tuple(args.matrix),
        coils=args.coils,
        noise=args.noise,
        lesion_label=args.lesion_label,
        painted=args.paint,
        seed=args.seed,
    )
    return list(find_volumes(args.nifti, settings))


def _simulated_jobs(args: argparse.Namespace) -> list[Job]:
    from training.data.simulated import PatientJob, PatientSettings

    settings = PatientSettings(
        anatomy=args.anatomy,
        contrast=args.contrast or ANATOMIES[args.anatomy].contrasts[0],
        shape=tuple(args.matrix),
        coils=args.coils,
        slices=args.slices,
        lesions=args.lesions,
        healthy=args.healthy,
        noise=args.noise,
        seed=args.seed,
    )
    return [PatientJob(number, settings) for number in range(args.simulated)]


def _split_settings(args: argparse.Namespace) -> SplitSettings:
    from training.data.manifest import FILE, SplitSettings, read_manifest

    known = read_manifest(args.output) if (args.output / FILE).exists() else {}
    seed = args.split_seed if args.split_seed is not None else known.get("seed", args.seed)
    fractions = tuple(args.split or known.get("fractions", (0.8, 0.1, 0.1)))
    return SplitSettings(fractions, seed)


def _report_annotations(annotations: Annotations) -> None:
    rows = sum(annotations.counts.values())
    reviewed = len(annotations.studies)
    _say(f"annotations: {rows} rows, {len(annotations.counts)} labels, {reviewed} reviewed files")
    for label, count in annotations.counts.items():
        _say(f"  {count:6d}  {label}")
    for line in annotations.ignored:
        _say(f"  ignored: {line}")


def _report(folder: Path, manifest: dict[str, Any], outcomes: list[Outcome]) -> None:
    from training.data.manifest import is_annotated

    cases = manifest["cases"]
    fates = Counter(outcome.fate for outcome in outcomes)
    _say(f"{folder}: {len(cases)} cases ({', '.join(f'{count} {fate}' for fate, count in sorted(fates.items()))})")
    for examination in sorted({(case["anatomy"], case["contrast"]) for case in cases}):
        members = [case for case in cases if (case["anatomy"], case["contrast"]) == examination]
        slices, abnormal, normal = (sum(case[key] for case in members) for key in _COUNTS)
        patients = len({case["patient_id"] for case in members})
        splits = Counter(case["split"] for case in members)
        _say(
            f"  {' '.join(examination)}: {len(members)} cases of {patients} patients "
            f"({', '.join(f'{splits[name]} {name}' for name in ('train', 'validation', 'test'))}); {slices} slices: "
            f"{abnormal} abnormal, {normal} normal, {slices - abnormal - normal} unlabelled; "
            f"{sum(map(is_annotated, members))} cases with boxes"
        )
    findings: Counter[str] = Counter()
    for case in cases:
        findings.update(case["boxes"])
    for label, count in findings.most_common():
        _say(f"  {count:6d} boxes  {label}")
    for case in cases:
        if case["note"]:
            _say(f"  note: {case['name']}: {case['note']}")
    for name, reason in manifest["skipped"].items():
        _say(f"  skipped: {name}: {reason}")


_COUNTS = ("slices", "abnormal_slices", "normal_slices")


def _reasons(outcomes: list[Outcome]) -> str:
    return "; ".join(sorted({outcome.reason for outcome in outcomes})[:3])


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
