"""Stage 1 of the paper: the reconstructor and the population's lines (LOUPE), trained together.

Differences from the paper: the squared errors stand in decibels, so that a slice counts the same whatever its noise and
acceleration (the sum of plain squares would be about the noisiest scans at 8× and nothing else); one reconstructor
serves all examinations and accelerations, with population lines for each; crops along the readout, which are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pass_recon.anatomies import ANATOMIES
from pass_recon.common.settings import checked
from pass_recon.config import ReconstructorConfig
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.sampling.budget import acs_fraction, line_budget
from pass_recon.sampling.lines import select_lines
from pass_recon.sampling.population import PopulationLogits
from pass_recon.types import InputError
from training.data.dataset import Slices, open_slices
from training.engine.batches import Batches, Detect, step_generator, validation_slices
from training.engine.processes import joined_processes
from training.engine.run_folder import load_weights, opened_run
from training.engine.settings import ReadingSettings, RunPath
from training.engine.trainer import Trainer
from training.engine.validation import ReconstructedSlice, mean_quality, write_validation_figure
from training.stages.anomaly_maps import TrainedDetectors, opened_detectors, simulated_map
from training.stages.errors import ERRORS, LossName, squared_error
from training.stages.shared import (
    acceleration_of,
    acs_of,
    bundle_name,
    chance_of,
    drawn_lines,
    examinations_of,
    lesion_weight,
    validation_scans,
)

STAGE = "reconstruction"
EXAMINATIONS = tuple(f"{name}-{contrast}" for name, anatomy in ANATOMIES.items() for contrast in anatomy.contrasts)
# Stage 2 presses logits together around the last line chosen (`training.stages.sampling.within_reach`); this undoes it.
_FIRMER = 8.0


@checked
@dataclass(frozen=True)
class ReconstructionSettings(ReadingSettings):
    """Stage 1.

    Attributes
    ----------
    examinations, accelerations
        What the reconstructor is for; each examination at each acceleration gets its population lines.
    reconstructor
        Networks and iterations.
    lines
        Number of population logits, best that of the data.
    rows
        Readout rows of a crop; 0 for whole slices.
    noise
        Range of the noise of a coil image, as a fraction of the peak, evenly on a logarithmic scale.
    global_weight, image_weight, lesion_weight
        γ₁, γ₂, γ₃: of x_global, of x, and of x inside the anomaly map.
    lines_rate
        Learning rate of the population's logits, as a multiple.
    weights_rate
        Learning rate of λ₁ and λ₂, as a multiple.
    loss
        ``decibels`` of the squared errors, the ``squared`` errors of the paper, whose lesion term is
        ``‖map ⊙ (x − truth)‖²``, the absolute error ``l1``, or 1 − ``ssim``.
    netad
        Run folder of detectors whose maps the enhancer sees; empty for a simulated detector.
    look
        At what they look: the ``slice`` itself, once, or, as at the scanner and in the paper, the ``reconstruction``:
        map = NetAD(x_global) in every stage, without gradient.
    sampling
        Run folder of stage 2, whose population lines are taken and not learned any more; empty to learn lines.
    checkpointing
        Compute activations again in the backward pass: memory for time.
    implicit
        Gradients of the solutions of conjugate gradients by one more solution, not through every iteration: less memory
        and fewer operations, right as far as the iterations have converged.
    """

    examinations: tuple[str, ...] = EXAMINATIONS
    accelerations: tuple[float, ...] = (4.0, 8.0)
    reconstructor: ReconstructorConfig = field(default_factory=ReconstructorConfig)
    lines: int = 320
    rows: int = 64
    noise: tuple[float, float] = (0.003, 0.02)
    global_weight: float = 1.0
    image_weight: float = 2.0
    lesion_weight: float = 1.0
    lines_rate: float = 10.0
    weights_rate: float = 10.0
    loss: LossName = "decibels"
    netad: RunPath = ""
    look: Literal["slice", "reconstruction"] = "slice"
    sampling: RunPath = ""
    checkpointing: bool = False
    implicit: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.look == "reconstruction" and (not self.netad or self.rows):
            raise InputError("look=reconstruction needs detectors (netad=RUN) and whole slices (rows=0)")


class ReconstructionObjective(nn.Module):
    """``γ₁ dB(x_global) + γ₂ dB(x) + γ₃ dB(map ⊙ x)`` of slices, each at an acceleration drawn for it."""

    def __init__(self, settings: ReconstructionSettings, detectors: TrainedDetectors | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.detectors = detectors if settings.look == "reconstruction" else None
        self.reconstructor = UnrolledReconstructor(
            settings.reconstructor, checkpointing=settings.checkpointing, implicit=settings.implicit
        )
        self.populations = nn.ModuleDict(
            {
                bundle_name(examination, acceleration): PopulationLogits(
                    settings.lines, acs_fraction(acceleration), acceleration=acceleration
                )
                for examination in settings.examinations
                for acceleration in settings.accelerations
            }
        )
        if settings.sampling:
            self._take_lines(settings.sampling)

    def forward(self, slices: Slices, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Losses of a batch; ``loss`` is their weighted mean."""
        settings = self.settings
        coil_maps, kspace = slices.coil_maps, slices.kspace(noise=settings.noise, generator=generator)
        lines = self._lines(slices, generator)
        *_, (image, global_image, anomaly_map) = self.reconstructor.iterate(kspace, coil_maps, lines, self.look(slices))
        error = ERRORS[settings.loss]
        parts = {
            "global": (settings.global_weight, error(global_image, slices.image).mean()),
            "image": (settings.image_weight, error(image, slices.image).mean()),
            "lesion": (settings.lesion_weight, self._lesion(image, slices, anomaly_map)),
        }
        total = sum(weight for weight, _ in parts.values())
        loss = torch.stack([weight * value / total for weight, value in parts.values()]).sum()
        return {"loss": loss, **{name: value for name, (_, value) in parts.items()}}

    def look(self, slices: Slices) -> Callable[[Tensor], Tensor]:
        """What gives the anomaly map ``(b, ro, pe)`` of an image of these slices."""
        detectors = self.detectors
        if detectors is None:
            known = slices.anomaly_map if slices.anomaly_map is not None else torch.zeros_like(slices.image.real)
            return lambda _: known
        names = list(zip(slices.anatomy, slices.contrast, strict=True))
        return lambda image: torch.stack([detectors.map_of(*name, x) for name, x in zip(names, image, strict=True)])

    def _lesion(self, image: Tensor, slices: Slices, anomaly_map: Tensor) -> Tensor:
        if self.settings.loss == "squared":
            return squared_error(anomaly_map * image, anomaly_map * slices.image).mean()
        weight = lesion_weight(slices, anomaly_map)
        has_lesion = weight.flatten(1).sum(1) >= 1
        return ERRORS[self.settings.loss](image, slices.image, weight).where(has_lesion, 0.0).mean()

    def chosen_lines(self, name: str, pe: int, reachable: Tensor | None = None) -> Tensor:
        """``(pe,)`` bool: the plan of the population, of reachable lines ``(pe,)``."""
        population = self.populations[name]
        acceleration = acceleration_of(name)
        logits: Tensor = population(pe)
        budget = line_budget(pe, acceleration)
        return select_lines(logits.detach().cpu(), acs_of(pe, acceleration), budget, reachable)

    def _take_lines(self, sampling: str) -> None:
        """Populations of stage 2, drawn with little doubt: all but the last lines chosen are nearly always the same."""
        for name, population in self.populations.items():
            logits = load_weights(sampling, f"samplers.{name}.population.")["logits"]
            population.load_state_dict({"logits": _FIRMER * logits})
        self.populations.requires_grad_(False)

    def _lines(self, slices: Slices, generator: torch.Generator | None) -> Tensor:
        """Lines ``(b, pe)``, each slice at an acceleration drawn for it, among those that were measured."""
        settings, names = self.settings, list(self.populations)
        draw = chance_of(generator)
        numbers = torch.randint(len(settings.accelerations), (len(slices.image),), generator=draw).tolist()
        accelerations = [settings.accelerations[number] for number in numbers]
        wanted = [bundle_name(*pair) for pair in zip(examinations_of(slices), accelerations, strict=True)]
        for case, name in zip(slices.case, wanted, strict=True):
            if name not in self.populations:
                raise InputError(f"{case} is {name}, which is not among {', '.join(names)}")
        # All of them take part, so that processes that train together agree on what has a gradient.
        logits = torch.stack([population(slices.image.shape[-1]) for population in self.populations.values()])
        logits = logits[torch.tensor([names.index(name) for name in wanted], device=logits.device)]
        damping = self.reconstructor.damping
        return drawn_lines(logits, accelerations, damping, generator, reachable=slices.reachable)


def train_reconstruction(
    settings: ReconstructionSettings, data: Sequence[Path], run_folder: Path, device: str = "auto"
) -> None:
    """Train, or go on training, the reconstructor and the population's lines.

    Parameters
    ----------
    settings
        Of the stage.
    data
        Prepared datasets.
    run_folder
        Where the run keeps its things.
    device
        ``auto``, ``cpu``, ``cuda`` …

    Raises
    ------
    InputError
        If data, settings or an earlier run in the folder do not go together.
    Interrupted
        If told to stop; the run has been saved.
    """
    with (
        joined_processes(device) as processes,
        opened_run(run_folder, settings, STAGE, writes=processes.first) as run,
    ):
        run.record_data(data)
        torch.manual_seed(settings.seed)
        detectors = opened_detectors(settings.netad, data, settings.examinations, run)
        # Where the loop looks at reconstructions, nobody needs a map of the slice, and the detectors are on the device.
        detect: Detect | None = detectors or simulated_map if settings.look == "slice" else None
        trainer = Trainer(
            ReconstructionObjective(settings, detectors),
            settings,
            run,
            processes,
            faster={
                "populations": settings.lines_rate,
                "reconstructor.denoiser_parameter": settings.weights_rate,
                "reconstructor.enhancer_parameter": settings.weights_rate,
            },
        )
        sources = open_slices(data, "train", settings.examinations, fraction=settings.fraction)
        batches = Batches(sources, settings, processes, first=trainer.step, rows=settings.rows, detect=detect)
        examples = _examples(settings, data, detect)
        for step in trainer.steps():
            for part, slices in enumerate(batches.of_step()):
                trainer.learn(slices, step_generator(settings, step, processes, part))
            trainer.advance()
            if trainer.epoch() and processes.first:
                objective = trainer.averaged.module
                assert isinstance(objective, ReconstructionObjective)
                seen = reconstructed(objective, examples, processes.device)
                figure, quality = run.figure(trainer.epoch()), mean_quality(seen)
                write_validation_figure(figure, seen, f"step {trainer.step}")
                trainer.keep(quality, score=quality["psnr"], figure=figure)


@torch.no_grad()
def reconstructed(
    objective: ReconstructionObjective, examples: Sequence[Slices], device: torch.device
) -> list[ReconstructedSlice]:
    """Whole slices from the population's lines at every acceleration."""
    settings, results = objective.settings, []
    for scan in validation_scans(examples, settings.accelerations, settings.noise, device):
        lines = objective.chosen_lines(scan.bundle, scan.kspace.shape[-1], scan.slices.reachable[0].cpu())
        image, _ = objective.reconstructor(scan.kspace, scan.coil_maps, lines.to(device), objective.look(scan.slices))
        results.append(ReconstructedSlice(scan.bundle, scan.item, image[0].cpu(), lines))
    return results


def _examples(settings: ReconstructionSettings, data: Sequence[Path], detect: Detect | None) -> list[Slices]:
    examples = validation_slices(open_slices(data, "validation", settings.examinations), settings.validation_slices)
    chance = torch.Generator().manual_seed(0)
    return [item if detect is None else replace(item, anomaly_map=detect(item, chance)) for item in examples]
