"""A slice of 320 × 320 and 16 coils: its coil maps, its plan and its image, each against who else does it."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sigpy.mri.app
import torch
from pygrappa import mdgrappa
from torch import Tensor

from pass_recon import Pipeline
from pass_recon.bundles.published import CONFIG as PUBLISHED
from pass_recon.networks import in_bfloat16
from pass_recon.phantom import simulate_patient
from pass_recon.physics.fourier import fft2c, ifft2c
from pass_recon.physics.solvers import conjugate_gradient
from pass_recon.preparation import acs_maps
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.sampling.lines import acs_mask
from tests.benchmarks.timing import Benchmark
from tests.physics.bart import ecalib

BUNDLE, PERSONAL, COILS, ACS = "brain-flair-8x", "brain-flair-4x", 16, 24
PUBLISHED_COILS, PUBLISHED_SHAPE = 12, (320, 320)


def benchmarks() -> Iterator[Benchmark]:
    """BART where it is installed; its time holds the start of a program and files, a tenth of a second."""
    kspace = simulate_patient(anatomy="brain", contrast="flair", coils=COILS, slices=1).kspace
    array = np.ascontiguousarray(kspace[0].numpy())
    peers = {"sigpy EspiritCalib": lambda: sigpy.mri.app.EspiritCalib(array, calib_width=ACS, show_pbar=False).run()}
    if shutil.which("bart"):
        peers["BART ecalib -m1"] = lambda: _bart(array)
    for peer_name, peer in peers.items():
        yield Benchmark(
            f"coil maps of {ACS} ACS lines, {COILS} coils", lambda: acs_maps(kspace, ACS), peer, peer_name, repeats=3
        )
    yield from _plans(kspace)
    yield from _reconstructions(kspace)
    yield _published()


def _plans(kspace: Tensor) -> Iterator[Benchmark]:
    pe, shape = kspace.shape[-1], tuple(kspace.shape[-2:])
    for name, about in ((PERSONAL, "a patient's own lines"), ("brain-t1-4x", "lines that are fixed")):
        pipeline = Pipeline(name)
        lines = pipeline.acs(pe)
        acs = kspace[0][..., lines]
        yield Benchmark(
            f"plan of {about}, {COILS} coils",
            lambda pipeline=pipeline, acs=acs, lines=lines: pipeline.plan(acs, lines, shape),
            lambda: acs_maps(kspace, ACS),
            "coil maps of its ACS alone",
        )


def _reconstructions(kspace: Tensor) -> Iterator[Benchmark]:
    fast, exact = Pipeline(BUNDLE), Pipeline(BUNDLE, precision="float32")
    lines = fast.population_plan(kspace.shape[-1]).lines
    work = f"reconstruction with {BUNDLE}, {COILS} coils, all in"
    yield Benchmark(
        work, lambda: fast.reconstruct(kspace, lines), lambda: exact.reconstruct(kspace, lines), "in float32", repeats=5
    )
    equispaced = equispaced_lines(kspace.shape[-1], 4, ACS)
    general = Pipeline("brain-flair-4x")
    yield Benchmark(
        f"reconstruction of equispaced lines, R = 4, {ACS} ACS lines, {COILS} coils",
        lambda: general.reconstruct(kspace, equispaced),
        lambda: grappa(kspace * equispaced, ACS),
        "pygrappa",
        repeats=1,
    )
    few = simulate_patient(anatomy="brain", contrast="flair", coils=COILS // 2, slices=1).kspace
    yield Benchmark(
        f"reconstruction with {BUNDLE}, {COILS} coils",
        lambda: fast.reconstruct(kspace, lines),
        lambda: fast.reconstruct(few, lines),
        f"{COILS // 2} coils",
        repeats=5,
    )


def _published() -> Benchmark:
    """The networks of the published weights, untrained, with the iterations as their authors run them."""
    network = UnrolledReconstructor(PUBLISHED).eval()
    plain = UnrolledReconstructor(PUBLISHED).eval().to(memory_format=torch.contiguous_format)
    maps = torch.randn(1, PUBLISHED_COILS, *PUBLISHED_SHAPE, dtype=torch.complex64)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    lines = equispaced_lines(PUBLISHED_SHAPE[1], 4, ACS)
    kspace = fft2c(torch.randn(1, 1, *PUBLISHED_SHAPE, dtype=torch.complex64) * maps) * lines

    def ours() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16("auto", torch.device("cpu"))):
            network(kspace, maps, lines, lambda image: torch.ones_like(image.real))

    return Benchmark(
        f"published networks {PUBLISHED_SHAPE[0]}x{PUBLISHED_SHAPE[1]}, {PUBLISHED_COILS} coils",
        ours,
        lambda: published_loop(plain, kspace, maps, lines),
        "their loop",
        repeats=1,
    )


@torch.no_grad()
def published_loop(network: UnrolledReconstructor, kspace: Tensor, maps: Tensor, lines: Tensor) -> Tensor:
    """The iterations as they are written down, each operator a whole Fourier transform there and back."""
    weight, enhancer_weight, rho = network.denoiser_weight, network.enhancer_weight, network.config.rho

    def adjoint(measured: Tensor) -> Tensor:
        return (ifft2c(measured * lines) * maps.conj()).sum(1)

    def solved(weight: Tensor | float, rhs: Tensor) -> Tensor:
        return conjugate_gradient(
            lambda x: adjoint(fft2c(x[:, None] * maps)) + weight * x, rhs, iterations=network.config.cg_iterations
        )

    measured = adjoint(kspace)
    image = solved(weight, measured)
    dual = torch.zeros_like(image)
    for _ in range(network.config.stages):
        image = split = solved(weight, measured + weight * network.denoiser(image))
        anomaly_map = torch.ones_like(image.real)
        for _ in range(network.config.inner_iterations):
            wanted = weight * network.denoiser(split) + rho * (split - dual / rho)
            image = solved(weight + rho, measured + wanted)
            enhanced = network.enhancer(split, anomaly_map)
            split = (enhancer_weight * enhanced + rho * image + dual) / (rho + enhancer_weight)
            dual = dual + rho * (image - split)
    return image


def equispaced_lines(pe: int, acceleration: int, acs: int) -> Tensor:
    """Mask ``(pe,)`` of a vendor's scan: each so-many-th line, and an ACS among them."""
    return (torch.arange(pe) % acceleration == 0) | acs_mask(pe, acs)


def grappa(kspace: Tensor, acs: int) -> None:
    """GRAPPA of slices ``(slices, coils, ro, pe)`` as pygrappa does it, to coil images."""
    lines = acs_mask(kspace.shape[-1], acs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for coils_last in kspace.movedim(1, -1):
            mdgrappa(coils_last.numpy(), coils_last[:, lines].numpy(), kernel_size=(5, 5))


def _bart(kspace: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ecalib(kspace, Path(folder), "-r", str(ACS), "-m1")
