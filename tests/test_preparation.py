"""The glimpse that a plan is made from, against the image that a reconstruction would start from."""

from __future__ import annotations

import pytest
import torch

from pass_recon.phantom import simulate_patient
from pass_recon.preparation import glimpse, prepare
from pass_recon.sampling.lines import acs_mask
from pass_recon.types import InputError


def patient(**changes):
    settings = {"anatomy": "brain", "contrast": "flair", "slices": 2, "coils": 8, "shape": (128, 128), "seed": 3}
    return simulate_patient(**(settings | changes)).kspace


def scaled(image, reference):
    """The image in the unit of the reference, slice by slice."""
    factor = (reference.conj() * image).sum((-2, -1)) / image.abs().square().sum((-2, -1))
    return image * factor.abs()[:, None, None]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shape": (127, 121)},
        {"shape": (160, 96)},
        {"coils": 1},
        {"coils": 3},
        {"anatomy": "knee", "contrast": "pd"},
    ],
    ids=str,
)
@pytest.mark.parametrize("width", [10, 24])
def test_a_glimpse_shows_what_the_whole_image_shows(changes, width):
    kspace = patient(**changes)
    acs = acs_mask(kspace.shape[-1], width)
    whole = prepare(kspace * acs, acs).acs_image
    seen = scaled(glimpse(kspace, acs, acs), whole)
    # Where there is signal: beyond it the whole image is cropped to zero.
    tissue = whole.abs() > 0.1 * whole.abs().max()
    assert float((seen - whole)[tissue].norm() / whole[tissue].norm()) < 0.08


def test_the_unit_of_the_data_does_not_matter():
    kspace, acs = patient(), acs_mask(128, 24)
    images = [glimpse(kspace * unit, acs, acs) for unit in (1.0, 1e-15, 1e12)]
    for image in images[1:]:
        torch.testing.assert_close(image, images[0], rtol=1e-3, atol=1e-3 * float(images[0].abs().max()))


def test_slices_are_seen_together_as_one_by_one():
    kspace, acs = patient(), acs_mask(128, 24)
    together = glimpse(kspace, acs, acs)
    alone = torch.cat([glimpse(one[None], acs, acs) for one in kspace])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3 * float(together.abs().max()))


def test_too_few_lines_are_named():
    with pytest.raises(InputError, match="3 lines around the centre"):
        glimpse(patient(), acs_mask(128, 3), acs_mask(128, 3))
