"""A vendor's lines and our own, on prepared data and on measured k-space, against what a scanner has today.

Equispaced lines with ACS lines among them, and the bundle's own lines of as high an acceleration; coil maps from the
lines around the centre, as at a scanner. GRAPPA is pygrappa's, its coils combined by the same maps. L1-wavelet takes
the λ that is best for the very slice, which flatters it. Of measured k-space the truth is CG-SENSE of all its lines.
Magnitudes are compared, scaled to the truth.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pass_recon.bundles import load_bundle
from pass_recon.common.files import write_json, written_aside
from pass_recon.metrics import psnr
from pass_recon.pipeline import Pipeline
from pass_recon.preparation import PreparedScan, prepare
from pass_recon.reconstruction.classical import l1_wavelet, zero_filled
from pass_recon.sampling.lines import acs_mask
from pass_recon.types import InputError
from training.evaluate.measures import computing_threads, read_slice
from training.evaluate.report import interval_text, table_text
from training.evaluate.selection import dataset_labels, evaluated_bundles, slice_entries
from training.evaluate.statistics import as_plain, bootstrap
from training.evaluate.tuning import best_exponents

RESULTS, TABLES = "vendor_lines.json", "vendor_lines.md"
OURS, VENDORS = "own", "equispaced"
METHODS = {"pass": "PASS", "cg-sense": "CG-SENSE", "l1-wavelet": "L1-wavelet, its best λ", "grappa": "GRAPPA"}


@dataclass(frozen=True)
class VendorLinesSettings:
    """What to compare.

    Attributes
    ----------
    bundle
        Name or folder.
    output
        Folder of the results.
    data
        Prepared datasets.
    cfl
        Fully sampled k-space of one slice in BART's form, in place of data.
    accelerations, acs
        R of the equispaced lines, and how many lines around the centre are among them.
    methods
        Names in ``METHODS``; none for all.
    noise
        σ for data, as in the evaluation.
    split, patients, slices
        Which data.
    iterations
        Of L1-wavelet.
    threads, device
        How to compute.
    resamples, seed
        Of the bootstrap by patient.
    command, progress
        For the record; a bar.
    """

    bundle: str
    output: Path
    data: tuple[Path, ...] = ()
    cfl: Path | None = None
    accelerations: tuple[float, ...] = (2.0, 3.0, 4.0, 6.0)
    acs: int = 26
    methods: tuple[str, ...] = ()
    noise: float = 0.005
    split: str = "test"
    patients: int = 0
    slices: int = 1
    iterations: int = 60
    threads: int = 1
    device: str = "cpu"
    resamples: int = 2000
    seed: int = 0
    command: str = ""
    progress: bool = True

    def __post_init__(self) -> None:
        unknown = sorted(set(self.methods) - set(METHODS))
        if unknown:
            raise InputError(f"there is no method {', '.join(unknown)} here; there are {', '.join(METHODS)}")
        if bool(self.data) == (self.cfl is not None):
            raise InputError("either datasets or one measured k-space (--cfl) must be given")
        if self.acs < 1 or not self.accelerations or min(self.accelerations) < 1:
            raise InputError(f"R must be at least 1 and so must the ACS lines, got {self.accelerations}, {self.acs}")


@dataclass(frozen=True)
class _Scan:
    """One fully sampled slice: k-space ``(coils, ro, pe)``, magnitude ``(ro, pe)``, and whose it is."""

    kspace: Tensor
    truth: NDArray
    patient: str


def vendor_lines(pe: int, acceleration: float, acs: int) -> Tensor:
    """Mask ``(pe,)``: every R-th line, one of them through the centre, and the ACS among them.

    Raises
    ------
    InputError
        If R is no whole number: no scanner has such a step.
    """
    step = round(acceleration)
    if step != acceleration:
        raise InputError(f"equispaced lines need a whole R, got {acceleration:g}")
    return ((torch.arange(pe) - pe // 2) % step == 0) | acs_mask(pe, min(acs, pe))


def read_cfl(path: Path) -> NDArray[np.complex64]:
    """K-space ``(coils, ro, pe)`` of BART's ``.cfl`` beside its ``.hdr``.

    Raises
    ------
    InputError
        If the two are not there, do not go together, or hold more than one slice.
    """
    stem = path.with_suffix("") if path.suffix in (".cfl", ".hdr") else path
    try:
        words = stem.with_suffix(".hdr").read_text().split("\n")[1].split()
        shape = [int(word) for word in words]
        data = np.fromfile(stem.with_suffix(".cfl"), dtype=np.complex64)
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path} is no k-space in BART's form: {error}") from error
    wanted = (shape + [1] * 4)[:4]
    if data.size != np.prod(shape) or np.prod(shape) != np.prod(wanted) or wanted[0] != 1:
        raise InputError(f"{path} must hold 1 × readout × phase encoding × coils, and holds {data.size} of {shape}")
    _, ro, pe, coils = wanted
    return np.ascontiguousarray(data.reshape((ro, pe, coils), order="F").transpose(2, 0, 1))


def evaluate_vendor_lines(settings: VendorLinesSettings) -> dict[str, Any]:
    """Compare, and write ``vendor_lines.json`` and ``vendor_lines.md``.

    Raises
    ------
    BundleError, InputError
        If a bundle or the data are missing or damaged, or nothing fits together.
    """
    (evaluated,) = evaluated_bundles([settings.bundle])
    bundle = load_bundle(evaluated.folder, device=settings.device)
    names = [name for name in METHODS if not settings.methods or name in settings.methods]
    missing = "" if "grappa" not in names or _has_grappa() else "GRAPPA is left out: pygrappa is not installed"
    names = [name for name in names if name != "grappa" or not missing]
    records: list[dict[str, Any]] = []
    with computing_threads(settings.threads), torch.no_grad():
        scans = list(_scans(settings, evaluated.examination))
        work = [(scan, R, kind) for scan in scans for R in settings.accelerations for kind in (VENDORS, OURS)]
        for scan, acceleration, kind in tqdm(work, disable=None if settings.progress else True):
            pipeline = Pipeline(bundle, device=settings.device, acceleration=acceleration)
            pe = scan.kspace.shape[-1]
            own = kind == OURS
            lines = pipeline.population_plan(pe).lines if own else vendor_lines(pe, acceleration, settings.acs)
            found = {
                name: _quality(_IMAGES[name](scan, pipeline, lines, settings), scan.truth)
                for name in names
                if name != "grappa" or not own  # its kernel knows one step only
            }
            told = {"acceleration": acceleration, "lines": kind, "count": int(lines.sum()), "patient": scan.patient}
            records.append({**told, "psnr": found})
    results: dict[str, Any] = as_plain({
        "command": settings.command,
        "bundle": evaluated.label,
        "truth": "CG-SENSE of all lines" if settings.cfl else "the prepared image",
        "missing": missing,
        "rows": _rows(records, names, settings),
    })  # fmt: skip
    settings.output.mkdir(parents=True, exist_ok=True)
    write_json(settings.output / RESULTS, results)
    with written_aside(settings.output / TABLES) as aside:
        aside.write_text(vendor_lines_page(results), encoding="utf-8")
    return results


def _scans(settings: VendorLinesSettings, examination: str) -> Iterator[_Scan]:
    if settings.cfl is not None:
        kspace = torch.from_numpy(read_cfl(settings.cfl))
        everything = torch.ones(kspace.shape[-1], dtype=torch.bool)
        yield _Scan(kspace, _magnitude(Pipeline().classical(kspace, everything).image), settings.cfl.stem)
        return
    found = [
        entry
        for folder, label in dataset_labels(settings.data).items()
        for entry in slice_entries(
            folder, label, examination, split=settings.split, patients=settings.patients, slices=settings.slices
        )
    ]
    if not found:
        raise InputError(f"no {examination} case in the {settings.split} split of {', '.join(map(str, settings.data))}")
    for entry in found:
        slices = read_slice(entry)
        yield _Scan(slices.kspace(noise=settings.noise, fixed=True), _magnitude(slices.image), entry.patient)


def _magnitude(image: Tensor) -> NDArray:
    return image.abs().double().cpu().numpy()


def _quality(image: Tensor, truth: NDArray) -> float:
    """PSNR of the magnitude, scaled to the truth: maps and kernels leave the scale open."""
    found = _magnitude(image)
    return psnr(found * float((found * truth).sum() / (found**2).sum()), truth)


def _prepared(scan: _Scan, lines: Tensor, width: int) -> PreparedScan:
    return prepare((scan.kspace * lines)[None], acs_mask(len(lines), width))


def _grappa(scan: _Scan, pipeline: Pipeline, lines: Tensor, settings: VendorLinesSettings) -> Tensor:
    from pygrappa import mdgrappa

    prepared = _prepared(scan, lines, settings.acs)
    kspace = prepared.kspace[0].movedim(0, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, about pygrappa
        filled = mdgrappa(kspace.numpy(), kspace[:, acs_mask(len(lines), settings.acs)].numpy(), kernel_size=(5, 5))
    coils = torch.from_numpy(filled).movedim(-1, 0).to(torch.complex64)
    return zero_filled(coils, prepared.coil_maps[0], torch.ones_like(lines))


def _has_grappa() -> bool:
    from importlib.util import find_spec

    return find_spec("pygrappa") is not None


def _l1(scan: _Scan, pipeline: Pipeline, lines: Tensor, settings: VendorLinesSettings) -> Tensor:
    prepared = _prepared(scan, lines, settings.acs if (lines & acs_mask(len(lines), settings.acs)).sum() == settings.acs
                         else int(pipeline.acs(len(lines)).sum()))  # fmt: skip
    made: dict[int, Tensor] = {}

    def measure(asked: list[tuple[int, int]]) -> Mapping[tuple[int, int], float]:
        for _, exponent in asked:
            solve = partial(l1_wavelet, prepared.kspace[0], prepared.coil_maps[0], lines)
            made[exponent] = solve(regularisation=2.0**exponent, iterations=settings.iterations)
        return {(key, exponent): _quality(made[exponent], scan.truth) for key, exponent in asked}

    tried = best_exponents([0], measure)[0]
    return made[max(tried, key=lambda exponent: tried[exponent])]


_IMAGES: dict[str, Callable[[_Scan, Pipeline, Tensor, VendorLinesSettings], Tensor]] = {
    "pass": lambda scan, pipeline, lines, settings: pipeline.reconstruct(scan.kspace, lines).image,
    "cg-sense": lambda scan, pipeline, lines, settings: pipeline.classical(scan.kspace, lines).image,
    "l1-wavelet": _l1,
    "grappa": _grappa,
}


def _rows(
    records: Sequence[Mapping[str, Any]], names: Sequence[str], settings: VendorLinesSettings
) -> list[dict[str, Any]]:
    rows = []
    for kind in (VENDORS, OURS):
        for acceleration in settings.accelerations:
            members = [one for one in records if one["lines"] == kind and one["acceleration"] == acceleration]
            patients = [one["patient"] for one in members]
            psnrs = {
                name: bootstrap(
                    [one["psnr"].get(name, np.nan) for one in members], patients,
                    resamples=settings.resamples, seed=settings.seed,
                )
                for name in names
            }  # fmt: skip
            count = float(np.mean([one["count"] for one in members]))
            rows.append({"lines": kind, "acceleration": acceleration, "count": count, "psnr": psnrs})
    return rows


def vendor_lines_page(results: Mapping[str, Any]) -> str:
    """The table."""
    names = list(results["rows"][0]["psnr"])
    rows = [
        [row["lines"], f"{row['acceleration']:g}", f"{row['count']:.0f}",
         *(interval_text(row["psnr"][name]) for name in names)]
        for row in results["rows"]
    ]  # fmt: skip
    parts = [
        "# Vendors' lines and own lines",
        f"    {results['command']}" if results["command"] else "",
        f"{results['bundle']}; coil maps from the lines around the centre; truth: {results['truth']}. PSNR in dB of "
        "magnitudes, scaled to the truth; 95 % intervals by bootstrap over patients.",
        table_text(["lines", "R", "of them", *(METHODS[name] for name in names)], rows),
        results["missing"],
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
