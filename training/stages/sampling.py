"""Stage 2 of the paper: the anomaly-aware sampling (AS) network chooses each patient's lines, the reconstructor fixed.

Differences from the paper: errors stand in decibels, as in stage 1; the second term weighs the whole error around the
anomalies and not only its part on the chosen lines, where measured data leaves little error to learn from; lines are
the best by their logits, slightly shaken, so that training sees the exact budget that scans have; one AS network serves
all examinations at an acceleration, on top of the population lines of each; these go on learning, much faster than the
network, so that what all patients need is not left to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pass_recon.common.settings import checked
from pass_recon.config import NetworkConfig, SamplerConfig
from pass_recon.physics.fourier import fft1c, ifft1c
from pass_recon.preparation import prepare
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.sampling.budget import acs_fraction, line_budget
from pass_recon.sampling.lines import select_lines
from pass_recon.sampling.personal import LineSampler
from pass_recon.sampling.population import line_probabilities, straight_through
from pass_recon.types import InputError
from training.data.dataset import Slices, collate, open_slices
from training.engine.batches import Batches, chosen_rows, step_generator, validation_slices
from training.engine.processes import joined_processes
from training.engine.run_folder import load_weights, opened_run, settings_of
from training.engine.settings import ReadingSettings, RunPath
from training.engine.trainer import Trainer
from training.engine.validation import ReconstructedSlice, mean_quality, write_validation_figure
from training.stages.anomaly_maps import TrainedDetectors, opened_detectors, simulated_map
from training.stages.errors import ERRORS, LossName, squared_error
from training.stages.reconstruction import EXAMINATIONS, ReconstructionSettings
from training.stages.shared import (
    acceleration_of,
    acs_of,
    bundle_name,
    chance_of,
    examinations_of,
    validation_scans,
    with_a_gradient,
    with_fair_noise,
)

STAGE = "sampling"
_REACH = 0.5  # σ(5 · 0.5) = 0.92
_AROUND = 17  # pixels across which the surroundings of a lesion count as the lesion


@checked
@dataclass(frozen=True)
class SamplingSettings(ReadingSettings):
    """Stage 2.

    Attributes
    ----------
    reconstruction
        Run folder of stage 1.
    netad
        Run folder of the detectors; empty for a simulated detector.
    examinations, accelerations
        As in stage 1, or fewer.
    network
        The AS network.
    rows
        Readout rows of the crop that is reconstructed; the ACS is always that of the whole slice.
    noise
        As in stage 1.
    loss
        ``decibels`` of the squared errors, the absolute error ``l1``, 1 − ``ssim``, or the ``squared`` errors of the
        paper: ``‖x_K − x‖² + λ‖map ⊙ Fᴴ(M² ⊙ F x_K − M² ⊙ F x)‖²``, M² = the lines chosen beside the ACS.
    lesion_weight
        λ, of the error around anomalies.
    exploration
        Standard deviation by which logits are shaken in training.
    lines_rate
        Learning rate of the population's logits, as a multiple.
    centred_on
        About how many training slices the population's lines are the mean of.
    """

    reconstruction: RunPath = ""
    netad: RunPath = ""
    examinations: tuple[str, ...] = EXAMINATIONS
    accelerations: tuple[float, ...] = (4.0, 8.0)
    network: NetworkConfig = field(default_factory=lambda: NetworkConfig("line_network"))
    rows: int = 64
    noise: tuple[float, float] = (0.003, 0.02)
    loss: LossName = "decibels"
    lesion_weight: float = 2.0
    exploration: float = 0.1
    lines_rate: float = 20.0
    centred_on: int = 50


class SamplingObjective(nn.Module):
    """``dB(x_K) + λ dB(around anomalies ⊙ x_K)`` at every acceleration, for AS networks and populations."""

    def __init__(self, settings: SamplingSettings, detectors: TrainedDetectors | None) -> None:
        super().__init__()
        self.settings = settings
        self.detectors = detectors
        stage_1 = settings_of(settings.reconstruction, ReconstructionSettings)
        self.reconstructor = UnrolledReconstructor(stage_1.reconstructor)
        self.reconstructor.load_state_dict(load_weights(settings.reconstruction, "reconstructor."))
        self.reconstructor.requires_grad_(False)
        self.samplers = nn.ModuleDict(
            {
                bundle_name(examination, acceleration): LineSampler(
                    SamplerConfig(stage_1.lines, settings.network, acs_fraction(acceleration), centred=True)
                )
                for examination in settings.examinations
                for acceleration in settings.accelerations
            }
        )
        for name in self.samplers:
            sampler = self.sampler(name)
            logits = load_weights(settings.reconstruction, f"populations.{name}.")["logits"]
            sampler.population.logits.data.copy_(within_reach(logits, acceleration_of(name)))
        for acceleration in settings.accelerations:
            first, *others = (
                self.sampler(bundle_name(examination, acceleration)) for examination in settings.examinations
            )
            for other in others:
                other.personal = first.personal

    def sampler(self, name: str) -> LineSampler:
        """The sampler of a bundle."""
        found = self.samplers[name]
        assert isinstance(found, LineSampler)
        return found

    def forward(self, slices: Slices, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Losses of a batch, averaged over the accelerations."""
        coil_maps, kspace = slices.coil_maps, slices.kspace(noise=self.settings.noise, generator=generator)
        draw = chance_of(generator)
        rows = [chosen_rows(image, mask, self.settings.rows, draw) for image, mask in _pairs(slices)]
        noise = kspace - slices.kspace(noise=0.0)
        measured, noise = (fft1c(_on_rows(ifft1c(x, -2), rows), -2) for x in (kspace, noise))
        maps = _on_rows(coil_maps, rows)
        truth, around = (_on_rows(x, rows) for x in (slices.image, surroundings(slices.anomaly_mask)))
        parts: dict[str, list[Tensor]] = {"image": [], "lesion": []}
        for acceleration in self.settings.accelerations:
            logits, acs_map = self.line_logits(slices, kspace, coil_maps, acceleration)
            lines = self._explored(logits, acceleration, slices.reachable, generator)
            seen = _on_rows(acs_map, rows)
            fair = with_fair_noise(measured, noise, lines, self.reconstructor.damping)
            image, _ = self.reconstructor(fair, maps, lines, lambda _, seen=seen: seen)
            if self.settings.loss == "squared":
                chosen = lines * ~acs_of(lines.shape[-1], acceleration).to(lines.device)
                error = ifft1c(fft1c(image - truth, -1) * chosen[:, None], -1)
                parts["lesion"].append((seen * error).abs().square().mean())
                parts["image"].append(squared_error(image, truth).mean())
                continue
            measured_by = ERRORS[self.settings.loss]
            error = measured_by(image, truth, around).where(around.flatten(1).any(1), 0.0)
            parts["lesion"].append(error.mean())
            parts["image"].append(measured_by(image, truth).mean())
        means = {name: torch.stack(values).mean() for name, values in parts.items()}
        loss = means["image"] + self.settings.lesion_weight * means["lesion"]
        loss = with_a_gradient(loss, (self.sampler(name).population.logits for name in self.samplers))
        return {"loss": loss, **means}

    def line_logits(
        self, slices: Slices, kspace: Tensor, coil_maps: Tensor, acceleration: float
    ) -> tuple[Tensor, Tensor]:
        """Logits ``(b, pe)`` and the map ``(b, ro, pe)`` from the ACS of each slice, exactly as at the scanner."""
        image = prepare(kspace, acs_of(kspace.shape[-1], acceleration), coil_maps=coil_maps).acs_image
        seen = torch.stack([self._look(slices, number, image[number]) for number in range(len(image))])
        names = [bundle_name(examination, acceleration) for examination in examinations_of(slices)]
        each = [self.sampler(name)(image[n : n + 1], seen[n : n + 1]) for n, name in enumerate(names)]
        # A sampler gives no gradient to its population: this is zero, and does.
        populations = torch.stack([self.sampler(name).population(kspace.shape[-1]) for name in names])
        return torch.cat(each) + populations - populations.detach(), seen

    def _look(self, slices: Slices, number: int, image: Tensor) -> Tensor:
        if self.detectors is not None:
            return self.detectors.map_of(slices.anatomy[number], slices.contrast[number], image)
        if slices.anomaly_map is None:
            return torch.zeros_like(image.real)
        return slices.anomaly_map[number]

    def _explored(
        self, logits: Tensor, acceleration: float, reachable: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """The best measured lines of shaken logits, as 0 and 1 with the gradient of their probabilities."""
        acs = acs_of(logits.shape[-1], acceleration)
        budget = line_budget(logits.shape[-1], acceleration)
        shaken = torch.randn(logits.shape, generator=generator, device=logits.device) * self.settings.exploration
        last = torch.finfo(logits.dtype).min  # chosen where fewer lines were measured than the budget, and then dropped
        lines = select_lines((logits.detach() + shaken).masked_fill(~reachable, last), acs, budget) & reachable
        probabilities = line_probabilities(logits, acs, budget, reachable=reachable)
        return straight_through(lines, probabilities, self.reconstructor.damping)


def train_sampling(settings: SamplingSettings, data: Sequence[Path], run_folder: Path, device: str = "auto") -> None:
    """Train, or go on training, the AS networks.

    Parameters, errors: as `train_reconstruction`.
    """
    if not settings.reconstruction:
        raise InputError("this stage needs the run of stage 1: say reconstruction=RUN")
    with (
        joined_processes(device) as processes,
        opened_run(run_folder, settings, STAGE, writes=processes.first) as run,
    ):
        run.record_data(data)
        torch.manual_seed(settings.seed)
        detectors = opened_detectors(settings.netad, data, settings.examinations, run)
        objective = SamplingObjective(settings, detectors)
        faster = {f"samplers.{name}.population": settings.lines_rate for name in objective.samplers}
        trainer = Trainer(objective, settings, run, processes, faster=faster)
        sources = open_slices(data, "train", settings.examinations, fraction=settings.fraction)
        detect = None if detectors else simulated_map
        batches = Batches(sources, settings, processes, first=trainer.step, detect=detect)
        examples = validation_slices(open_slices(data, "validation", settings.examinations), settings.validation_slices)
        common = validation_slices(sources, settings.centred_on)
        for step in trainer.steps():
            for part, slices in enumerate(batches.of_step()):
                trainer.learn(slices, step_generator(settings, step, processes, part))
            trainer.advance()
            if trainer.epoch() and processes.first:
                averaged: Any = deepcopy(trainer.averaged.module)
                before = choose_population_logits(averaged, common, examples, processes.device)
                personal = planned(averaged, examples, processes.device, personal=True)
                figure, after = run.figure(trainer.epoch()), mean_quality(personal)
                write_validation_figure(figure, personal, f"step {trainer.step}")
                gains = {f"gain {name}": after[name] - before[name] for name in before}
                trainer.keep(after | gains, score=after["psnr"], figure=figure, objective=averaged)


def choose_population_logits(
    objective: SamplingObjective, common: Sequence[Slices], examples: Sequence[Slices], device: torch.device
) -> dict[str, float]:
    """Centre each population on its patients unless its own lines are better: a worse one would flatter personal lines.

    Returns
    -------
    dict
        Mean PSNR of the examples with the lines of each population, dB.
    """
    own = mean_quality(planned(objective, examples, device, personal=False))
    centre_populations(objective, common, device)
    centred = mean_quality(planned(objective, examples, device, personal=False))
    names = [name for name in objective.samplers if name in own]
    for name in names:
        if own[name] > centred[name]:
            objective.sampler(name).return_to_own_lines()
    return {name: max(own[name], centred[name]) for name in names}


@torch.no_grad()
def centre_populations(objective: SamplingObjective, common: Sequence[Slices], device: torch.device) -> None:
    """Let each population ask for what its patients ask for on average: what remains is personal."""
    settings, chance = objective.settings, torch.Generator(device).manual_seed(0)
    asked: dict[str, list[Tensor]] = {}
    for item in common:
        slices = collate([item]).to(device)
        coil_maps, kspace = slices.coil_maps, slices.kspace(noise=settings.noise, generator=chance)
        for acceleration in settings.accelerations:
            name = bundle_name(examinations_of(slices)[0], acceleration)
            if kspace.shape[-1] == objective.sampler(name).config.lines:
                asked.setdefault(name, []).append(objective.line_logits(slices, kspace, coil_maps, acceleration)[0])
    for name, logits in asked.items():
        objective.sampler(name).centre(torch.cat(logits))


@torch.no_grad()
def planned(
    objective: SamplingObjective, examples: Sequence[Slices], device: torch.device, *, personal: bool
) -> list[ReconstructedSlice]:
    """Whole slices from the patient's own lines, or from the population's, in a quiet and in a noisy scan."""
    settings, results = objective.settings, []
    quiet_and_noisy = (
        scan
        for noise in settings.noise
        for scan in validation_scans(examples, settings.accelerations, (noise, noise), device)
    )
    for scan in quiet_and_noisy:
        pe = scan.kspace.shape[-1]
        logits, seen = objective.line_logits(scan.slices, scan.kspace, scan.coil_maps, scan.acceleration)
        if not personal:
            logits = objective.sampler(scan.bundle).population(pe)[None]
        acs, budget = acs_of(pe, scan.acceleration), line_budget(pe, scan.acceleration)
        lines = select_lines(logits, acs, budget, scan.slices.reachable[0].cpu())
        image, _ = objective.reconstructor(scan.kspace, scan.coil_maps, lines, lambda _, seen=seen: seen)
        results.append(ReconstructedSlice(scan.bundle, scan.item, image[0].cpu(), lines[0].cpu()))
    return results


def within_reach(logits: Tensor, acceleration: float) -> Tensor:
    """Population logits ``(pe,)`` that give the same plan, pressed together around the last line chosen.

    LOUPE drives logits apart until no correction of a patient could move a line, nor a gradient ask for one. The order
    stays, so the plan does.
    """
    pe = logits.shape[-1]
    acs, budget = acs_of(pe, acceleration), line_budget(pe, acceleration)
    chosen = select_lines(logits, acs, budget)
    last, first_left_out = logits[chosen & ~acs].min(), logits[~chosen].max()
    middle, spread = (last + first_left_out) / 2, logits[~acs].std().clamp(min=1e-6)
    return _REACH * torch.tanh((logits - middle).double() / spread).to(logits.dtype)


def surroundings(mask: Tensor) -> Tensor:
    """``(b, ro, pe)`` float: 1 within a few pixels of a lesion."""
    return functional.max_pool2d(mask.float(), _AROUND, stride=1, padding=_AROUND // 2)


def _pairs(slices: Slices) -> list[tuple[Tensor, Tensor]]:
    return list(zip(slices.image.cpu(), slices.anomaly_mask.cpu(), strict=True))


def _on_rows(x: Tensor, rows: Sequence[slice]) -> Tensor:
    """Of each ``(…, ro, pe)`` in a batch its own rows."""
    return torch.stack([part[..., own, :] for part, own in zip(x, rows, strict=True)])
