"""The paper's losses and its map inside the loop, by their definitions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pass_recon.anomaly import NetAD
from pass_recon.physics.fourier import fft2c, ifft2c
from pass_recon.types import InputError
from tests.networks import TINY_BACKBONE
from tests.training.small import reconstruction_settings, sampling_settings
from training.engine.run_folder import opened_run
from training.stages import reconstruction
from training.stages.anomaly_maps import TrainedDetectors
from training.stages.netad import STAGE, NetADSettings, save_detectors
from training.stages.reconstruction import ReconstructionObjective
from training.stages.sampling import SamplingObjective
from training.stages.shared import acs_of


@pytest.fixture
def detectors(tmp_path) -> TrainedDetectors:
    kinds = {"brain-flair": NetAD.build(TINY_BACKBONE, anatomy="brain")}
    with opened_run(tmp_path / "netad", NetADSettings(), STAGE) as run:
        save_detectors(run, kinds)
    return TrainedDetectors(tmp_path / "netad")


@pytest.fixture
def one(batch):
    """The brain of the batch alone."""
    tensors = ("image", "stored_maps", "anomaly_mask", "label", "noise", "line_range", "anomaly_map")
    told = ("boxes", "caption", "case", "slice_index", "anatomy", "contrast")
    parts = {name: getattr(batch, name)[:1] for name in (*tensors, *told)}
    images = None if batch.stored_images is None else batch.stored_images[:1]
    return replace(batch, stored_images=images, **parts)


def paper(**changes):
    given = {"loss": "squared", "look": "reconstruction", "netad": "run", "rows": 0, "noise": (0.01, 0.01)}
    return reconstruction_settings(**{**given, **changes})


def test_what_no_detector_knows_has_maps_of_zeros_and_is_told(detectors):
    image = torch.randn(48, 48, dtype=torch.complex64)
    assert not bool(detectors.map_of("knee", "pd", image).any())
    told = ["there is no detector for knee-pd: its anomaly maps are zero"]
    assert detectors.missing(["brain-flair", "knee-pd"]) == told


def test_the_map_is_that_of_each_image_and_has_no_gradient(one, detectors):
    objective = ReconstructionObjective(paper(), detectors)
    assert one.anatomy[0] == "brain"
    look = objective.look(one)
    image = torch.randn_like(one.image).requires_grad_()
    seen = look(image)
    assert not seen.requires_grad
    torch.testing.assert_close(seen[0], detectors.map_of("brain", "flair", image.detach()[0]))
    assert not torch.equal(look(one.image), seen)
    losses = objective(one, torch.Generator().manual_seed(0))
    losses["loss"].backward()
    assert all(weight.grad is None for weight in detectors.parameters())


def test_squared_losses_have_the_papers_weights(one, detectors):
    objective = ReconstructionObjective(paper(), detectors)
    losses = objective(one, torch.Generator().manual_seed(0))
    expected = (1 * losses["global"] + 2 * losses["image"] + 1 * losses["lesion"]) / 4
    torch.testing.assert_close(losses["loss"], expected)
    assert 0 <= losses["lesion"].item() <= losses["image"].item() * 1.001  # a map is at most 1


def test_whole_slices_and_detectors_are_asked_for():
    with pytest.raises(InputError, match="whole slices"):
        paper(rows=24)
    with pytest.raises(InputError, match="netad=RUN"):
        paper(netad="")


def test_the_sampling_loss_weighs_the_chosen_lines_alone(one, runs, monkeypatch):
    settings = sampling_settings(runs / "reconstruction", loss="squared", rows=0, exploration=0.0, accelerations=(4.0,))
    objective = SamplingObjective(settings, None)
    given = {}

    class Recorded:
        damping = objective.reconstructor.damping

        def __call__(self, kspace, maps, lines, look):
            given.update(lines=lines.detach(), map=look(None))
            return one.image + 0.1 * torch.randn_like(one.image), None

    del objective.reconstructor
    objective.reconstructor = Recorded()
    torch.manual_seed(1)
    losses = objective(one, torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    error = 0.1 * torch.randn_like(one.image)
    chosen = given["lines"].bool() & ~acs_of(one.image.shape[-1], 4.0)
    reference = (given["map"] * ifft2c(fft2c(error) * chosen[:, None])).abs().square().mean()
    torch.testing.assert_close(losses["lesion"].detach(), reference, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(losses["image"].detach(), error.abs().square().mean(), rtol=1e-4, atol=1e-9)


def test_slices_are_looked_at_where_the_loop_does_not_look_itself(data, tmp_path, monkeypatch, detectors):
    asked = []
    monkeypatch.setattr(reconstruction, "opened_detectors", lambda *_: detectors)
    monkeypatch.setattr(reconstruction, "Batches", lambda *_, detect, **__: asked.append(detect) or Nothing())
    for look in ("slice", "reconstruction"):
        settings = paper(look=look, examinations=("brain-flair",), steps=1)
        with pytest.raises(StopIteration):
            reconstruction.train_reconstruction(settings, [data], tmp_path / look, "cpu")
    assert asked == [detectors, None]


class Nothing:
    """Has no batches: what matters is who was to look at them."""

    def of_step(self):
        raise StopIteration
