"""Fourier transform, coil maps and CG-SENSE against sigpy, on a typical slice: 320 × 320, 12 coils."""

from __future__ import annotations

from collections.abc import Iterator

import sigpy
import sigpy.mri.app
import torch

from pass_recon.physics.coils import espirit_maps
from pass_recon.physics.encoding import SenseOperator
from pass_recon.physics.fourier import fft2c
from pass_recon.physics.solvers import conjugate_gradient
from tests.benchmarks.timing import Benchmark
from tests.physics.phantoms import CoilPhantom, coil_phantom

COILS, SHAPE, ACS, ACCELERATION, ITERATIONS, REGULARISATION = 12, (320, 320), 24, 4, 10, 1e-3


def benchmarks() -> Iterator[Benchmark]:
    """One after the other; the peers take up to a minute together."""
    phantom = coil_phantom(COILS, SHAPE, noise=0.01)
    yield _fourier(phantom, SHAPE)
    yield _fourier(coil_phantom(COILS, (321, 319)), (321, 319))
    yield _espirit(phantom)
    yield _sense(phantom)


def _fourier(phantom: CoilPhantom, shape: tuple[int, int]) -> Benchmark:
    kspace = phantom.kspace
    array = kspace.numpy()
    return Benchmark(
        f"fft2c {shape[0]}x{shape[1]}, {COILS} coils",
        lambda: fft2c(kspace),
        lambda: sigpy.fft(array, axes=(-2, -1)),
        "sigpy.fft",
    )


def _espirit(phantom: CoilPhantom) -> Benchmark:
    kspace = phantom.kspace
    array = kspace.numpy()
    return Benchmark(
        f"espirit_maps {SHAPE[0]}x{SHAPE[1]}, {COILS} coils, {ACS} ACS lines",
        lambda: espirit_maps(kspace, ACS),
        lambda: sigpy.mri.app.EspiritCalib(array, calib_width=ACS, show_pbar=False).run(),
        "sigpy EspiritCalib",
        repeats=2,
    )


def _sense(phantom: CoilPhantom) -> Benchmark:
    mask = torch.arange(SHAPE[1]) % ACCELERATION == 0
    maps, kspace = phantom.coil_maps, phantom.kspace * mask
    maps_array, kspace_array = maps.numpy(), kspace.numpy()
    weights = mask.expand(SHAPE).float().numpy()

    def ours() -> torch.Tensor:
        operator = SenseOperator(maps, mask)
        rhs = operator.adjoint(kspace)
        return conjugate_gradient(lambda x: operator.normal(x) + REGULARISATION * x, rhs, iterations=ITERATIONS)

    def peer() -> object:
        return sigpy.mri.app.SenseRecon(
            kspace_array, maps_array, REGULARISATION, weights=weights, max_iter=ITERATIONS, show_pbar=False
        ).run()

    name = f"CG-SENSE {SHAPE[0]}x{SHAPE[1]}, {COILS} coils, {ITERATIONS} iterations"
    return Benchmark(name, ours, peer, "sigpy SenseRecon", repeats=5)
