"""Encoded and reconstructed grid in any relation: a pixel shows what lies at its place, and nothing is stretched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gadgets.mrd import ScanContext
from gadgets.mrd.geometry import boxes_to_recon_space, map_to_recon_space, to_recon_space
from gadgets.properties import Properties
from pass_recon.types import Box
from tests.gadgets.acquisitions import header


def places(pixels, field):
    """Millimetres of the pixels of an axis."""
    return (np.arange(pixels) - pixels // 2) * field / pixels


def spot(shape, fields, sigma=12.0):
    """A smooth spot off the centre, round in millimetres, on a grid."""
    x, y = places(shape[0], fields[0])[:, None], places(shape[1], fields[1])[None]
    return np.exp(-((x - 15) ** 2 + (y + 20) ** 2) / (2 * sigma**2)).astype(np.complex64)


def encoding(encoded, encoded_fov, recon, recon_fov):
    """Of a header with these matrices and fields of view, (x, y) each."""
    text = header()
    for name, size, field in (("encodedSpace", encoded, encoded_fov), ("reconSpace", recon, recon_fov)):
        before, after = text[: text.index(f"<{name}>")], text[text.index(f"</{name}>") :]
        text = (
            f"{before}<{name}><matrixSize><x>{size[0]}</x><y>{size[1]}</y><z>1</z></matrixSize><fieldOfView_mm>"
            f"<x>{field[0]}</x><y>{field[1]}</y><z>5</z></fieldOfView_mm>{after}"
        )
    return ScanContext(text, Properties()).first_encoding


GRIDS = {
    "interpolated": ((128, 64), (400, 200), (128, 128), (200, 200)),
    "interpolated by no integer": ((128, 64), (400, 200), (90, 84), (200, 200)),
    "coarser than encoded": ((256, 128), (400, 200), (48, 48), (200, 200)),
    "phase oversampling": ((128, 96), (400, 300), (64, 64), (200, 200)),
    "phase oversampling of 37 %": ((128, 88), (400, 275), (64, 64), (200, 200)),
    "phase resolution below 1": ((128, 48), (400, 200), (64, 64), (200, 200)),
    "rectangular field of view": ((128, 48), (400, 150), (64, 48), (200, 150)),
    "rectangular, square image": ((128, 48), (400, 150), (64, 64), (200, 150)),
    "encoded smaller than recon": ((128, 48), (400, 150), (64, 64), (200, 200)),
    "recon wider along readout": ((64, 64), (200, 200), (80, 64), (250, 200)),
    "readout oversampling of 1.6": ((160, 64), (320, 200), (100, 64), (200, 200)),
    "odd": ((130, 63), (400, 200), (65, 63), (200, 200)),
    "odd and interpolated": ((126, 57), (400, 200), (101, 99), (200, 200)),
    "no integer number of pixels": ((100, 61), (410, 207), (64, 64), (200, 200)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_round_spot_stays_round_in_its_place(name):
    grid = encoding(*GRIDS[name])
    kept = grid.encoded_fov_mm[0] / grid.oversampling, grid.encoded_fov_mm[1]
    image = torch.from_numpy(spot((grid.ro, grid.pe), kept))
    wanted = spot(grid.recon_shape, grid.recon_fov_mm)
    # Beyond the encoded field of view nothing is known.
    for axis, (pixels, field) in enumerate(zip(grid.recon_shape, grid.recon_fov_mm, strict=False)):
        outside = np.abs(places(pixels, field)) > kept[axis] / 2
        wanted[(slice(None),) * axis + (outside,)] = 0
    found = to_recon_space(image, grid)
    assert tuple(found.shape) == grid.recon_shape
    np.testing.assert_allclose(found.numpy(), wanted, atol=0.02)
    np.testing.assert_allclose(map_to_recon_space(image.real, grid).numpy(), wanted.real, atol=0.05)


@pytest.mark.parametrize("name", GRIDS)
def test_a_box_stays_around_what_it_was_drawn_around(name):
    grid = encoding(*GRIDS[name])
    kept = grid.encoded_fov_mm[0] / grid.oversampling, grid.encoded_fov_mm[1]

    def around(shape, fields):
        inside = np.abs(spot(shape, fields)) > 0.4
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        return Box(int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)

    (moved,) = boxes_to_recon_space((around((grid.ro, grid.pe), kept),), (grid.ro, grid.pe), grid)
    wanted = around(grid.recon_shape, grid.recon_fov_mm)
    pixel = np.array([max(1.0, kept[0] / grid.ro * grid.recon_shape[0] / grid.recon_fov_mm[0]),
                      max(1.0, kept[1] / grid.pe * grid.recon_shape[1] / grid.recon_fov_mm[1])])  # fmt: skip
    for one, two in (
        ((moved.readout, moved.phase), (wanted.readout, wanted.phase)),
        (
            (moved.readout + moved.readout_size, moved.phase + moved.phase_size),
            (wanted.readout + wanted.readout_size, wanted.phase + wanted.phase_size),
        ),
    ):
        assert (np.abs(np.subtract(one, two)) <= pixel + 0.5).all()


def test_noise_finer_than_the_wanted_pixels_does_not_fold_in():
    grid = encoding(*GRIDS["coarser than encoded"])
    stripes = torch.ones(grid.ro, grid.pe, dtype=torch.complex64) * (-1.0) ** torch.arange(grid.pe)
    assert float(to_recon_space(stripes, grid).abs().max()) < 1e-4
