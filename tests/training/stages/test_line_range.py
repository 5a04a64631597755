"""Lines that the scanner never measured are no lines of zeros: neither trained on nor validated with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pass_recon.sampling.budget import line_budget
from tests.training.small import EXAMINATIONS, reconstruction_settings, sampling_settings
from training.data.dataset import open_slices
from training.engine.batches import flipped
from training.stages.reconstruction import ReconstructionObjective, reconstructed
from training.stages.sampling import SamplingObjective, planned
from training.stages.shared import acceleration_of


class Seen:
    """Stands for a reconstructor and remembers the lines that it was given."""

    def __init__(self, reconstructor):
        self.reconstructor, self.lines, self.damping = reconstructor, [], reconstructor.damping

    def __call__(self, kspace, coil_maps, lines, *rest):
        self.lines.append(lines.detach())
        return self.reconstructor(kspace, coil_maps, lines, *rest)

    def iterate(self, kspace, coil_maps, lines, *rest):
        self.lines.append(lines.detach())
        return self.reconstructor.iterate(kspace, coil_maps, lines, *rest)


@pytest.fixture
def cut(batch):
    return replace(batch, line_range=torch.tensor([[9, 44]] * len(batch.image)))


def test_stage_1_uses_measured_lines_alone(cut):
    objective = ReconstructionObjective(reconstruction_settings())
    seen = Seen(objective.reconstructor)
    del objective.reconstructor
    objective.reconstructor = seen
    objective(cut, torch.Generator().manual_seed(1))
    assert not any(bool(lines[:, :9].any() or lines[:, 44:].any()) for lines in seen.lines)
    assert all(bool(lines.any(-1).all()) for lines in seen.lines)


def test_stage_2_uses_measured_lines_alone(cut, runs):
    objective = SamplingObjective(sampling_settings(runs / "reconstruction"), None)
    seen = Seen(objective.reconstructor)
    del objective.reconstructor
    objective.reconstructor = seen
    objective(cut, torch.Generator().manual_seed(1))
    assert seen.lines
    assert not any(bool(lines[:, :9].any() or lines[:, 44:].any()) for lines in seen.lines)


def test_the_budget_is_drawn_among_measured_lines(cut, runs):
    objective = ReconstructionObjective(reconstruction_settings(accelerations=(4.0,)))
    drawn = [objective._lines(cut, torch.Generator().manual_seed(seed)).detach().sum(-1) for seed in range(300)]
    assert float(torch.cat(drawn).mean()) == pytest.approx(12, abs=0.3)
    explored = SamplingObjective(sampling_settings(runs / "reconstruction"), None)
    few = replace(cut, line_range=torch.tensor([[9, 44], [20, 28]]))
    lines = explored._explored(torch.randn(2, 48), 4.0, few.reachable, torch.Generator().manual_seed(0)).detach()
    assert lines.sum(-1).tolist() == [12, 8]


def test_validation_uses_measured_lines_alone(data, runs):
    item = replace(open_slices([data], "train", EXAMINATIONS)[0][0], line_range=torch.tensor([9, 44]))
    one = reconstructed(ReconstructionObjective(reconstruction_settings()), [item], torch.device("cpu"))
    objective = SamplingObjective(sampling_settings(runs / "reconstruction"), None)
    two = planned(objective, [item], torch.device("cpu"), personal=False)
    for result in (*one, *two):
        assert not bool(result.lines[:9].any() or result.lines[44:].any())
        assert int(result.lines.sum()) == line_budget(48, acceleration_of(result.name))


@pytest.mark.parametrize(("pe", "line_range"), [(48, (9, 44)), (47, (9, 44)), (48, (0, 48)), (48, (1, 48))])
def test_mirrored_images_have_mirrored_lines(batch, pe, line_range):
    image = torch.randn(1, pe, dtype=torch.complex64)
    spectrum = torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(image, dim=-1)), dim=-1)
    inside = torch.zeros(pe, dtype=torch.bool)
    inside[line_range[0] : line_range[1]] = True
    image = torch.fft.fftshift(torch.fft.ifft(torch.fft.ifftshift(spectrum * inside, dim=-1)), dim=-1)
    single = replace(
        batch,
        image=image,
        stored_maps=torch.zeros(1, 1, pe, 2),
        stored_images=None,
        anomaly_mask=torch.zeros(1, pe, dtype=torch.bool),
        anomaly_map=None,
        line_range=torch.tensor(line_range),
    )
    mirrored = flipped(single, [-1])
    spectrum = torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(mirrored.image, dim=-1)), dim=-1)
    energy = spectrum.abs()[0]
    assert float(energy[mirrored.reachable].square().sum() / energy.square().sum()) > 0.999
    assert int(mirrored.reachable.sum()) == line_range[1] - line_range[0]
