"""Scans as they really come: each with what is odd about it, the image that is right, and the words that must be said.

All show the same object, or several slices of it, so that each has its truth: the coil-combined image itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from ismrmrd import constants as flags
from numpy.typing import NDArray

from tests.gadgets.acquisitions import acquisition, coil_images, header, kspace, oversampled

RO, PE, COILS = 64, 64, 6
CALIBRATION, NOISE = flags.ACQ_IS_PARALLEL_CALIBRATION, flags.ACQ_IS_NOISE_MEASUREMENT
LIMITS = (0, PE - 1, PE // 2)


@dataclass(frozen=True)
class Situation:
    """A scan.

    Attributes
    ----------
    header
        The XML.
    acquisitions
        Made anew for each run.
    images
        Slice, repetition and set of the images that must come.
    said
        Words that a warning must hold; without, nothing may be said.
    tolerance
        NRMSE of each image.
    recon
        (readout, phase) pixels of the images.
    """

    header: str
    acquisitions: Callable[[], Iterator[Any]]
    images: tuple[tuple[int, int, int], ...] = ((0, 0, 0),)
    said: tuple[str, ...] = ()
    tolerance: float = 0.06
    recon: tuple[int, int] = (RO, PE)
    wanted: NDArray[np.float32] | None = field(default=None, repr=False)


@cache
def data(seed: int = 0) -> NDArray[np.complex64]:
    """``(coils, 2 RO, PE)`` as a scanner samples it."""
    return oversampled(kspace(ro=RO, pe=PE, coils=COILS, seed=seed))


@cache
def truth(seed: int = 0) -> NDArray[np.float32]:
    """``(RO, PE)``: the root sum of squares of the coils."""
    images = coil_images(ro=RO, pe=PE, coils=COILS, seed=seed)
    return np.sqrt((np.abs(images) ** 2).sum(0)).astype(np.float32)


def head(*, repetitions: int = 1, **changes: Any) -> str:
    """A header of this grid."""
    many = f"<repetition><minimum>0</minimum><maximum>{repetitions - 1}</maximum><center>0</center></repetition>"
    return header(**({"ro": RO, "pe": PE, "limits": LIMITS, "extra_limits": many} | changes))


def lines(steps: Any, *marks: int, offset: int = 0, factor: float = 1.0, seed: int = 0, **fields: Any) -> Iterator[Any]:
    """Lines of the grid ``steps``, numbered ``offset`` less."""
    k = data(seed)
    for step in steps:
        yield acquisition(factor * k[..., step], step - offset, *marks, **fields)


def _cut(made: Iterator[Any], first: int, last: int, centre: int) -> Iterator[Any]:
    """Readouts of which only some samples were taken."""
    for one in made:
        yield acquisition(one.data[:, first:last], one.idx.kspace_encode_step_1, center_sample=centre)


def _with_user_5(made: Iterator[Any], value: int) -> Iterator[Any]:
    for one in made:
        one.idx.user[5] = value
        yield one


def _changed(made: Iterator[Any], step: int, change: Callable[[Any], Any]) -> Iterator[Any]:
    for one in made:
        if one.idx.kspace_encode_step_1 == step:
            one.data[:] = change(one.data)
        yield one


def _renumbered(made: Iterator[Any], steps: dict[int, int]) -> Iterator[Any]:
    for one in made:
        step = one.idx.kspace_encode_step_1
        one.idx.kspace_encode_step_1 = steps.get(step, step)
        yield one


def _moved(one: Any, pixels: float) -> Any:
    """Along readout."""
    samples = one.data.shape[1]
    one.data[:] *= np.exp(-2j * np.pi * pixels / samples * (np.arange(samples) - samples // 2)).astype(np.complex64)
    return one


def _said_to_be_reversed(one: Any) -> Any:
    one.set_flag(flags.ACQ_IS_REVERSE)
    return one


def _noisy(steps: Any) -> Iterator[Any]:
    draws = np.random.default_rng(1)
    for one in lines(steps, average=1):
        one.data[:] = (draws.normal(size=(2, *one.data.shape)) * np.array([1, 1j])[:, None, None]).sum(0)
        yield one


def _noise(coils: int, samples: int = 256, *, dead: int | None = None, value: float = 1.0) -> Any:
    draws = np.random.default_rng(0).normal(size=(2, coils, samples))
    noise = (1e-3 * value * (draws[0] + 1j * draws[1])).astype(np.complex64)
    if dead is not None:
        noise[dead] = 0
    return acquisition(noise, 0, NOISE)


FULL, EVEN = range(PE), range(0, PE, 2)
ACS = range(PE // 2 - 12, PE // 2 + 12)
THREE = ((0, 0, 0), (0, 1, 0), (0, 2, 0))
SEPARATE = {"calibration": "separate"}


def _chain(*parts: Any) -> Callable[[], Iterator[Any]]:
    """Acquisitions of several makers one after the other."""

    def made() -> Iterator[Any]:
        for part in parts:
            yield from part() if callable(part) else [part]

    return made


def _other_grid() -> Iterator[Any]:
    """Calibration lines of half the readout and half the lines: the same field of view, seen more coarsely."""
    k = data()[:, RO // 2 : RO // 2 + RO]
    for number, step in enumerate(range(PE // 2 - 16, PE // 2 + 16)):
        yield acquisition(k[..., step], number, CALIBRATION, encoding_space_ref=1)


def _wide_grid() -> Iterator[Any]:
    """Calibration lines of a field of view that is half as large again along both axes."""
    images = coil_images(ro=RO, pe=PE, coils=COILS)
    pads = ((0, 0), (PE // 4, PE // 4), (PE // 4, PE // 4))
    wide = np.pad(images, pads)
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(wide, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    for step in range(32, 64):
        yield acquisition(k[:, 24:72, step].astype(np.complex64), step - 32, CALIBRATION, encoding_space_ref=1)


def _two_encodings(matrix: tuple[int, int], fov: tuple[float, float], recon_fov: float, limits: str = "") -> str:
    text = head(calibration="separate")
    first = text[text.index("<encoding>") : text.index("</encoding>") + len("</encoding>")]
    space = (
        "<matrixSize><x>{}</x><y>{}</y><z>1</z></matrixSize><fieldOfView_mm><x>{}</x><y>{}</y><z>5</z></fieldOfView_mm>"
    )
    second = (
        f"<encoding><encodedSpace>{space.format(*matrix, *fov)}</encodedSpace>"
        f"<reconSpace>{space.format(matrix[1], matrix[1], recon_fov, recon_fov)}</reconSpace>"
        f"<encodingLimits>{limits}</encodingLimits><trajectory>cartesian</trajectory></encoding>"
    )
    return text.replace(first, first + second)


def _plain_header(**spaces: Any) -> str:
    """A header with other matrices and fields of view: ``encoded``, ``recon`` as (x, y, mm, mm)."""
    text = head(limits=spaces.pop("limits", LIMITS))
    for name, (x, y, wide, high) in spaces.items():
        before, after = text[: text.index(f"<{name}Space>")], text[text.index(f"</{name}Space>") :]
        text = (
            f"{before}<{name}Space><matrixSize><x>{x}</x><y>{y}</y><z>1</z></matrixSize>"
            f"<fieldOfView_mm><x>{wide}</x><y>{high}</y><z>5</z></fieldOfView_mm>{after}"
        )
    return text


SITUATIONS: dict[str, Situation] = {
    "nothing odd": Situation(head(), lambda: lines(FULL)),
    # Headers.
    "unknown elements": Situation(
        head().replace("<encoding>", "<x/><encoding>").replace("</trajectory>", "</trajectory><new>1</new>"),
        lambda: lines(FULL),
    ),
    "enumerations in capitals, sizes as decimals": Situation(
        head(calibration="EMBEDDED", trajectory="CARTESIAN").replace(f"<y>{PE}</y>", f"<y>{PE}.0</y>"),
        lambda: lines(FULL),
    ),
    "no limits": Situation(head(limits=None), lambda: lines(FULL)),
    "limits of zero": Situation(head(limits=(0, 0, 0)), lambda: lines(FULL)),
    # Sizes.
    "twofold oversampling untold": Situation(
        _plain_header(encoded=(RO, PE, 300, 300)), lambda: lines(FULL), said=("2-fold oversampling",)
    ),
    "twofold oversampling told by the field of view alone": Situation(
        _plain_header(encoded=(RO, PE, 600, 300)), lambda: lines(FULL), said=("2-fold oversampling",)
    ),
    "twofold oversampling told by the matrix alone": Situation(
        _plain_header(encoded=(2 * RO, PE, 300, 300)), lambda: lines(FULL), said=("2-fold oversampling",)
    ),
    "a readout matrix twice too large": Situation(
        _plain_header(encoded=(4 * RO, PE, 600, 300)), lambda: lines(FULL), said=("2-fold oversampling",)
    ),
    "the same, and the field of view too": Situation(
        _plain_header(encoded=(4 * RO, PE, 1200, 300)), lambda: lines(FULL), said=("2-fold oversampling",)
    ),
    "4000 lines told, in limits too": Situation(
        _plain_header(encoded=(2 * RO, 4000, 600, 300), limits=(0, 3999, 2000)),
        lambda: lines(FULL),
        said=("a matrix of 4000 lines, of which 64 in the middle",),
    ),
    "4000 lines told": Situation(
        _plain_header(encoded=(2 * RO, 4000, 600, 300)),
        lambda: lines(FULL),
        said=("a matrix of 4000 lines, of which 64 in the middle",),
    ),
    # Readouts.
    "asymmetric echo without its centre": Situation(
        head(), lambda: _cut(lines(FULL), RO // 2, 2 * RO, 0), said=("has it at 32",), tolerance=0.12
    ),
    "echo cut at its end, without its centre": Situation(
        head(), lambda: _cut(lines(FULL), 0, RO + RO // 2, 0), said=("has it at 64",), tolerance=0.12
    ),
    "asymmetric echo with a wrong centre": Situation(
        head(), lambda: _cut(lines(FULL), RO // 2, 2 * RO, 75), said=("has it at 32",), tolerance=0.12
    ),
    "calibration of half the samples": Situation(
        head(**SEPARATE),
        _chain(
            lambda: (
                acquisition(one.data[:, RO // 2 : RO // 2 + RO], one.idx.kspace_encode_step_1, CALIBRATION)
                for one in lines(ACS)
            ),
            lambda: lines(EVEN),
        ),
    ),
    # Centres.
    "centre off by one": Situation(head(limits=(0, PE - 1, PE // 2 + 1)), lambda: lines(FULL), said=("step 32",)),
    "centre off by minus one": Situation(head(limits=(0, PE - 1, PE // 2 - 1)), lambda: lines(FULL), said=("step 32",)),
    "centre left at zero": Situation(head(limits=(0, PE - 1, 0)), lambda: lines(FULL), said=("step 32",)),
    "centre wrong by ten": Situation(
        head(limits=(0, PE - 1, 42)), lambda: lines(FULL), said=("step 42", "32 is taken")
    ),
    "centre wrong by three": Situation(
        head(limits=(0, PE - 1, 35)), lambda: lines(FULL), said=("step 35", "32 is taken")
    ),
    "centre of the full matrix in partial Fourier": Situation(
        head(limits=(0, 47, 32)),
        lambda: lines(range(16, PE), offset=16),
        said=("step 32", "16 is taken"),
        tolerance=0.12,
    ),
    "the same, with the centre in user 5": Situation(
        head(limits=(0, 47, 32)),
        lambda: _with_user_5(lines(range(16, PE), offset=16), 16),
        said=("step 32", "16 is taken"),
        tolerance=0.12,
    ),
    "user 5 that means something else": Situation(head(), lambda: _with_user_5(lines(FULL), 3)),
    "limits beyond the matrix": Situation(head(limits=(0, 2 * PE - 1, PE // 2)), lambda: lines(FULL)),
    "lines off the grid": Situation(
        head(), _chain(lambda: lines([5], offset=-200), lambda: lines(FULL)), said=("line 205 of a grid of 64",)
    ),
    # Calibration.
    "calibration before repetitions": Situation(
        head(repetitions=3, **SEPARATE),
        _chain(
            lambda: lines(ACS, CALIBRATION, factor=0.5),
            *(lambda r=r: lines(EVEN, repetition=r) for r in range(3)),
        ),
        images=THREE,
    ),
    "calibration embedded in the first repetition alone": Situation(
        head(repetitions=3, calibration="embedded"),
        _chain(
            lambda: lines(sorted({*EVEN, *ACS})),
            *(lambda r=r: lines(EVEN, repetition=r) for r in (1, 2)),
        ),
        images=THREE,
        said=("repetition 1 has too few lines",),
    ),
    "calibration in another set": Situation(
        head(**SEPARATE), _chain(lambda: lines(ACS, CALIBRATION, set=1), lambda: lines(EVEN))
    ),
    "calibration in another set, untold": Situation(
        head(), _chain(lambda: lines(ACS, CALIBRATION, set=1), lambda: lines(EVEN)), said=("set 1",)
    ),
    "calibration after the image": Situation(
        head(**SEPARATE), _chain(lambda: lines(EVEN), lambda: lines(ACS, CALIBRATION, factor=3))
    ),
    "calibration in a second encoding space": Situation(
        _two_encodings((RO, PE // 2), (600, 300), 300), _chain(_other_grid, lambda: lines(EVEN))
    ),
    "calibration of another field of view": Situation(
        _two_encodings((48, 48), (450, 450), 450), _chain(_wide_grid, lambda: lines(EVEN))
    ),
    "separate lines numbered from 0": Situation(
        head(**SEPARATE), _chain(lambda: lines(ACS, CALIBRATION, offset=ACS.start), lambda: lines(EVEN))
    ),
    "declared separate but absent": Situation(head(**SEPARATE), lambda: lines(FULL)),
    "declared separate but embedded": Situation(head(**SEPARATE), lambda: lines(sorted({*EVEN, *ACS}))),
    "calibration of other coils": Situation(
        head(**SEPARATE),
        _chain(
            lambda: (acquisition(one.data[:3], one.idx.kspace_encode_step_1, CALIBRATION) for one in lines(ACS)),
            lambda: lines(sorted({*EVEN, *ACS})),
        ),
        said=("3 coils, the image 6",),
    ),
    "interleaved over repetitions": Situation(
        head(repetitions=4, calibration="interleaved"),
        _chain(*(lambda r=r: lines(range(r % 2, PE, 2), repetition=r) for r in range(4))),
        images=(*THREE, (0, 3, 0)),
        said=("too few lines around the centre",),
    ),
    "interleaved over cardiac phases": Situation(
        head(calibration="interleaved"),
        _chain(*(lambda p=p: lines(range(p % 2, PE, 2), phase=p) for p in range(2))),
        images=((0, 0, 0), (0, 0, 0)),
        said=("too few lines around the centre",),
    ),
    "three slices, each with its own": Situation(
        head(**SEPARATE),
        _chain(
            *(lambda n=n: lines(ACS, CALIBRATION, slice=n, seed=n) for n in range(3)),
            *(lambda n=n: lines(EVEN, slice=n, seed=n) for n in range(3)),
        ),
        images=((0, 0, 0), (1, 0, 0), (2, 0, 0)),
    ),
    # Counters.
    "each line twice, untold": Situation(
        head(),
        lambda: (one for step in FULL for average in (0, 1) for one in lines([step], average=average)),
        said=("came 2 times, the header tells of 1: they are averaged",),
    ),
    "the whole scan twice, untold": Situation(
        head(),
        _chain(lambda: lines(FULL), lambda: lines(FULL, average=1)),
        said=("came 2 times, the header tells of 1: they are averaged",),
    ),
    "each line twice, under one name": Situation(
        head(), lambda: (one for step in FULL for _ in range(2) for one in lines([step])), said=("came 2 times",)
    ),
    "repeats of the opposite sign": Situation(
        head(averages=2),
        _chain(lambda: lines(FULL), lambda: lines(FULL, average=1, factor=-1.0)),
        said=("number 2 has a phase of", "180°, which is undone"),
    ),
    "a repeat of another object": Situation(
        head(averages=2),
        _chain(lambda: lines(FULL), lambda: _noisy(FULL)),
        said=("number 2 shows something else and is left out",),
    ),
    # Lines.
    # Of coils that see nearly the same a line is not made up for by the others.
    "an ACS line that does not come": Situation(
        head(),
        lambda: lines(step for step in FULL if step != PE // 2),
        said=("without 32)", "missing_lines: line 32 did"),
        tolerance=0.25,
    ),
    "an ACS line that does not come, half of the lines": Situation(
        head(),
        lambda: lines(step for step in sorted({*EVEN, *ACS}) if step != PE // 2 + 1),
        said=("without 33)", "missing_lines: line 33 did"),
        tolerance=0.12,
    ),
    "an ACS line of zeros": Situation(
        head(),
        lambda: _changed(lines(FULL), PE // 2, lambda line: 0 * line),
        said=("zero_lines: line 32 ",),
        tolerance=0.25,
    ),
    "two lines in each other's place": Situation(
        head(), lambda: _renumbered(lines(FULL), {29: 34, 34: 29}), said=("lines 29 and 34 fit their neighbours",)
    ),
    "two neighbours in each other's place": Situation(
        head(), lambda: _renumbered(lines(FULL), {32: 33, 33: 32}), said=("lines 32 and 33 fit their neighbours",)
    ),
    "a line of the wrong sign": Situation(
        head(),
        lambda: _changed(lines(FULL), 30, lambda line: -line),
        said=("line 30 not fitting its neighbours",),
        tolerance=0.1,
    ),
    "the patient moves halfway": Situation(
        head(),
        lambda: (_moved(one, 4) if one.idx.kspace_encode_step_1 >= 38 else one for one in lines(FULL)),
        said=("the lines from 38 on do not fit those before, as after motion",),
        tolerance=0.3,
    ),
    "lines of odd number are moved": Situation(
        head(),
        lambda: (_moved(one, 3) if one.idx.kspace_encode_step_1 % 2 else one for one in lines(FULL)),
        said=("lines of odd number were moved along readout (in pixels) by 3.0",),
    ),
    "lines of odd number are said to be reversed": Situation(
        head(),
        lambda: (_said_to_be_reversed(one) if one.idx.kspace_encode_step_1 % 2 else one for one in lines(FULL)),
        said=("lines of odd number were read backwards",),
    ),
    "segments untold": Situation(
        head(), _chain(lambda: lines(range(1, PE, 2), segment=1), lambda: lines(EVEN, segment=0))
    ),
    "repetitions untold": Situation(
        head(), _chain(*(lambda r=r: lines(FULL, repetition=r) for r in range(3))), images=THREE
    ),
    # Noise scans.
    "noise of other coils": Situation(
        head(), _chain(_noise(4), lambda: lines(FULL)), said=("noise scans have [4] coils, the lines 6",)
    ),
    "noise of zeros": Situation(head(), _chain(_noise(6, value=0), lambda: lines(FULL)), said=("no noise",)),
    "noise of NaN": Situation(head(), _chain(_noise(6, value=np.nan), lambda: lines(FULL)), said=("no noise",)),
    "noise of few samples": Situation(head(), _chain(_noise(6, 4), lambda: lines(FULL)), said=("4 noise samples",)),
    "a coil that is silent in the noise": Situation(
        head(), _chain(_noise(6, dead=2), lambda: lines(FULL)), said=("coil 2 is silent",), tolerance=0.25
    ),
}  # fmt: skip
