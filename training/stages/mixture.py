"""One reconstructor for any lines: trained on scans of all kinds (`scan_mixture`), for as long as it is given.

Differences from the paper: no bundle's lines alone but a mixture, drawn afresh for each sample; squared errors in
decibels, as in `reconstruction`; the contrast of painted blobs in the loss. Lines are not learned here.

The learning rate follows the clock: half a cosine over ``minutes``, so that a run always ends settled.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pass_recon.bundles import load_bundle, shipped_bundles
from pass_recon.common.settings import checked
from pass_recon.config import NetworkConfig, ReconstructorConfig
from pass_recon.phantom.draws import mixed_seed
from pass_recon.physics.fourier import resize_centre
from pass_recon.preparation import acs_maps
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.sampling.lines import acs_mask
from pass_recon.sampling.population import PopulationLogits
from pass_recon.types import InputError
from training.data.dataset import Slices, open_slices
from training.data.image_pool import KINDS, SIDE, ImagePool, Simulators, public_images
from training.data.painted_blobs import Blobs, recovery
from training.data.scan_mixture import CoilMixture, LineMixture, MixtureSettings, ScanBatch, ScanMixture
from training.engine.batches import validation_slices
from training.engine.checkpoints import above, below, load_optimiser_state, optimiser_state
from training.engine.processes import joined_processes
from training.engine.run_folder import CHECKPOINT, WEIGHTS, RunFolder, opened_run
from training.engine.settings import TrainingSettings
from training.engine.trainer import start_from
from training.stages.errors import decibels, squared_error
from training.stages.shared import acs_of, examinations_of, validation_scans

STAGE = "mixture"
_DRAWS_KEPT = 4
VALIDATION_NOISE = (0.005, 0.005)
_LOG_SECONDS = 10.0
NETWORKS = ReconstructorConfig(
    denoiser=NetworkConfig("unet", {"channels": [48, 96, 128, 192]}),
    enhancer=NetworkConfig("gated_unet", {"channels": [16, 32, 64]}),
    stages=2,
    inner_iterations=2,
    cg_iterations=3,
    initial_iterations=10,
    rho=0.3,
    denoiser_weight=0.1,
    enhancer_weight=0.5,
    warm_start=True,
    condition=64,
)
# Sizes and how often. Readouts are cropped; numbers of lines are few, since the work of each is recorded once.
SHAPES = (
    ((320, 320), 0.40),
    ((256, 320), 0.05),
    ((384, 320), 0.04),
    ((256, 256), 0.13),
    ((128, 128), 0.09),
    ((320, 256), 0.06),
    ((192, 192), 0.05),
    ((227, 187), 0.05),
    ((384, 384), 0.04),
    ((311, 291), 0.09),
)


@checked
@dataclass(frozen=True)
class MixtureTraining(TrainingSettings):
    """Settings of the stage; ``workers`` simulate patients meanwhile, ``steps`` are the most there will be.

    Attributes
    ----------
    minutes
        Of training; the learning rate falls along a cosine over them.
    together
        Batches that are drawn at once, of one size and number of coils; each step takes one of several such draws.
    global_weight, image_weight, lesion_weight, recovery_weight
        Of x_global, of x, of x inside lesions (each in dB), and of ``mean(recovery − 1)²``.
    reconstructor
        Networks and iterations.
    recorded
        Whether a CUDA device records a step of each size once and plays it back (CUDA graphs): launching thousands of
        small kernels takes longer than running them.
    capacity
        Images of a kind that are kept.
    shares
        How often T1w and FLAIR heads, knees and other images are drawn.
    kept
        Share of draws among images of the datasets, where simulated ones come in meanwhile.
    arrays
        Simulated arrays for each number of coils.
    """

    steps: int = 1_000_000
    batch: int = 24
    warmup: int = 200
    ema_decay: float = 0.998
    epoch: int = 500
    validation_slices: int = 9
    minutes: float = 9.0
    together: int = 4
    global_weight: float = 1.0
    image_weight: float = 2.0
    lesion_weight: float = 1.0
    recovery_weight: float = 40.0
    reconstructor: ReconstructorConfig = field(default_factory=lambda: NETWORKS)
    recorded: bool = True
    capacity: int = 2500
    shares: tuple[float, ...] = (0.27, 0.27, 0.28, 0.18)
    kept: float = 0.4
    arrays: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accumulate != 1:
            raise InputError("this stage does not accumulate gradients: give it a smaller batch instead")
        if self.patience or self.keep != "last":
            raise InputError("this stage ends by the clock and keeps its last weights: leave patience and keep alone")
        if len(self.shares) != len(KINDS):
            raise InputError(f"shares must be {len(KINDS)}, one each for {', '.join(KINDS)}, got {self.shares}")
        if self.minutes <= 0 or self.batch % 2 or self.together < 1:
            raise InputError(
                f"need minutes > 0, an even batch and together ≥ 1, got {self.minutes:g}, {self.batch}, {self.together}"
            )


class MixtureObjective(nn.Module):
    """``γ₁ dB(x_global) + γ₂ dB(x) + γ₃ dB(x in lesions) + γ₄ mean(recovery − 1)²``."""

    def __init__(self, settings: MixtureTraining) -> None:
        super().__init__()
        self.settings = settings
        self.reconstructor = UnrolledReconstructor(settings.reconstructor, implicit=True)

    def forward(self, batch: ScanBatch, anomaly_map: Tensor) -> dict[str, Tensor]:
        """Losses of a batch; ``loss`` is to be minimised."""
        settings = self.settings
        image, global_image = self.reconstructor(
            batch.kspace, batch.coil_maps, batch.lines, lambda _: anomaly_map, batch.features
        )
        weight = batch.lesions.to(anomaly_map.dtype)
        has_lesion = weight.flatten(1).sum(1) >= 1
        parts = {
            "global": (settings.global_weight, decibels(squared_error(global_image, batch.target)).mean()),
            "image": (settings.image_weight, decibels(squared_error(image, batch.target)).mean()),
            "lesion": (
                settings.lesion_weight,
                decibels(squared_error(image, batch.target, weight)).where(has_lesion, 0.0).mean(),
            ),
        }
        total = sum(weight for weight, _ in parts.values())
        loss = torch.stack([weight * value / total for weight, value in parts.values()]).sum()
        losses = {name: value for name, (_, value) in parts.items()}
        if batch.blobs is not None:
            twins = len(batch.blobs.change)
            # The phase of both, since one of them may be black where the other is not.
            phase = batch.target[:twins] + batch.target[-twins:]
            shares, measured = recovery(image[-twins:], image[:twins], phase, batch.blobs)
            faded = ((shares - 1).square() * measured).sum() / measured.sum().clamp(min=1)
            loss = loss + settings.recovery_weight * faded
            losses |= {"faded": faded, "recovery": (shares * measured).sum() / measured.sum().clamp(min=1)}
        return {"loss": loss, **losses}


class BatchMaker:
    """Batches without end: which sizes, images, scans and maps of a detector.

    Parameters
    ----------
    settings
        Of the stage.
    pool
        Where images come from.
    populations
        As `LineMixture` takes them.
    device
        Where all is computed.
    mixture
        How often which scan is drawn.
    shapes
        ``(ro, pe)``, and how often.
    """

    def __init__(
        self,
        settings: MixtureTraining,
        pool: ImagePool,
        populations: Mapping[str, Mapping[float, PopulationLogits]],
        device: torch.device,
        *,
        mixture: MixtureSettings | None = None,
        shapes: Sequence[tuple[tuple[int, int], float]] = SHAPES,
    ) -> None:
        mixture = mixture or MixtureSettings()
        self.settings, self.pool, self._coils, self._shapes = settings, pool, mixture.coils, shapes
        self.chance = random.Random()
        self.generator = torch.Generator(device)
        self.start_at(0)
        coils = CoilMixture(mixture.coils, settings.arrays, settings.seed, device)
        self.mixture = ScanMixture(LineMixture(populations, mixture), coils, mixture, device)
        self._ready: list[tuple[ScanBatch, Tensor]] = []

    def start_at(self, step: int) -> None:
        """Draw what follows from the seed and the step at which a run starts or goes on."""
        seed = mixed_seed(self.settings.seed, "batches", step)
        self.chance.seed(seed)
        self.generator.manual_seed(seed)

    def batch(self) -> tuple[ScanBatch, Tensor]:
        """A batch, and what a detector says of it."""
        # Several draws are kept and mixed, so that steps that follow each other are not all of one size.
        while len(self._ready) < _DRAWS_KEPT * self.settings.together:
            self._ready += self._draw()
        return self._ready.pop(self.chance.randrange(len(self._ready)))

    def _draw(self) -> list[tuple[ScanBatch, Tensor]]:
        settings, chance = self.settings, self.chance
        shape = chance.choices([shape for shape, _ in self._shapes], [often for _, often in self._shapes])[0]
        coils = chance.choice(self._coils)
        slices = settings.batch * settings.together
        magnitude, lesions, kinds = self.pool.draw(slices, shape, chance, self.generator)
        scans = self.mixture.scan(magnitude, lesions, kinds, coils, chance, self.generator)
        return [(part, self._seen(part.lesions)) for part in scans.parts(settings.together)]

    def _seen(self, lesions: Tensor) -> Tensor:
        """Maps as a detector might give: nothing, or the lesions as blurred as its tokens are, and false alarms."""
        batch = len(lesions)
        draw = torch.rand(3, batch, 1, 1, 1, generator=self.generator, device=lesions.device)
        blurred = nn.functional.avg_pool2d(lesions[:, None].float(), 17, stride=8, padding=8)
        alarms = torch.rand(blurred.shape, generator=self.generator, device=lesions.device) > 0.99
        coarse = (draw[0] * (2 * blurred).clamp(max=1) + draw[1] * alarms) * (draw[2] > 0.5)
        seen = nn.functional.interpolate(coarse, lesions.shape[-2:], mode="bilinear", align_corners=False)
        return seen[:, 0].clamp(0, 1)


def shipped_populations(names: Sequence[str]) -> dict[str, dict[float, PopulationLogits]]:
    """The population's logits of bundles, by kind and acceleration."""
    found: dict[str, dict[float, PopulationLogits]] = {}
    for name in names:
        bundle = load_bundle(name)
        found.setdefault(f"{bundle.anatomy}-{bundle.contrast}", {})[bundle.acceleration] = bundle.sampler.population
    return found


class MixtureRun:
    """The loop: batches, optimiser, average, checkpoints and log, all by the clock.

    Parameters
    ----------
    settings
        Of the stage.
    maker
        Of the batches.
    run
        Its folder; a checkpoint in it is taken up.
    device
        Where to train.
    simulators
        Whose patients come in meanwhile.
    examples
        Slices to validate on.
    """

    def __init__(
        self,
        settings: MixtureTraining,
        maker: BatchMaker,
        run: RunFolder,
        device: torch.device,
        *,
        simulators: Simulators | None = None,
        examples: Sequence[Slices] = (),
    ) -> None:
        self.settings, self.maker, self.run, self.device = settings, maker, run, device
        self.simulators, self.examples = simulators, examples
        torch.manual_seed(settings.seed)
        self.objective = MixtureObjective(settings).to(device)
        if settings.initial:
            start_from(self.objective, settings.initial)
        self.averaged = UnrolledReconstructor(settings.reconstructor).to(device).requires_grad_(False)
        self.averaged.load_state_dict(self.objective.reconstructor.state_dict())
        decays = [p for p in self.objective.parameters() if p.ndim > 1]
        others = [p for p in self.objective.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decays, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.step, self.spent = 0, 0.0
        self._resume()
        self._recorded: dict[tuple[int, ...], RecordedStep] = {}
        self._recording = settings.recorded and device.type == "cuda"

    def train(self) -> UnrolledReconstructor:
        """Train to the end of the time; the averaged reconstructor."""
        settings, total = self.settings, 60 * self.settings.minutes
        start = time.monotonic() - self.spent
        saved = logged = time.monotonic()
        sums: dict[str, Tensor] = {}
        batch = self.maker.batch()
        while self.spent < total and self.step < settings.steps:
            for group in self.optimiser.param_groups:
                group["lr"] = self._rate(self.spent / total)
            losses = self._gradients(*batch)
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self._existing())))
            # Both on the device: a gradient that is too long is divided, one that is not finite skips the step.
            self.optimiser.grad_scale = (norm / settings.gradient_clip).clamp(min=1.0)  # type: ignore[attr-defined]
            self.optimiser.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
            self.optimiser.step()
            self._average()
            # The next batch is made while the device still works on this one.
            batch = self.maker.batch()
            self.step += 1
            for name, value in {**losses, "gradient": norm, "steps": torch.ones_like(norm)}.items():
                sums[name] = sums.get(name, torch.zeros_like(norm)) + value
            if self.simulators is not None:
                self.simulators.take(self.maker.pool)
            now = time.monotonic()
            self.spent = now - start
            if now - logged > _LOG_SECONDS:
                self._report(sums)
                sums, logged = {}, now
            if self.step % settings.epoch == 0:
                self.keep()
            if now - saved > 60 * settings.checkpoint_minutes:
                self.save()
                saved = now
        self.save()
        self.keep()
        return self.averaged

    def keep(self) -> None:
        """Validate the averaged weights and make them the result of the run."""
        metrics = validated(self.averaged, self.examples, self.maker.mixture.lines, self.device)
        self.run.log("validation", self.step, **metrics)
        weights = {f"reconstructor.{name}": value for name, value in self.averaged.state_dict().items()}
        self.run.save(WEIGHTS, weights, {"step": self.step, "minutes": self.spent / 60, **metrics})

    def save(self) -> None:
        """Write the checkpoint: weights, their average, the optimiser, and where the run stands."""
        tensors = above("weights.", self.objective.reconstructor.state_dict())
        tensors |= above("averaged.", self.averaged.state_dict())
        tensors |= above("optimiser.", optimiser_state(self.optimiser))
        self.run.save(CHECKPOINT, tensors, {"step": self.step, "spent": self.spent})

    def _resume(self) -> None:
        loaded = self.run.load(CHECKPOINT)
        if loaded is None:
            self.run.log("started", 0, parameters=sum(weight.numel() for weight in self.averaged.parameters()))
            return
        tensors, about = loaded
        self.objective.reconstructor.load_state_dict(below(tensors, "weights."))
        self.averaged.load_state_dict(below(tensors, "averaged."))
        load_optimiser_state(self.optimiser, below(tensors, "optimiser."))
        self.step, self.spent = int(about["step"]), float(about["spent"])
        self.maker.start_at(self.step)
        self.run.log("resumed", self.step)

    def _report(self, sums: Mapping[str, Tensor]) -> None:
        values = {name: float(value) for name, value in sums.items()}
        count = values.pop("steps")
        means = {name: value / count for name, value in values.items()}
        alive = {} if self.simulators is None else {"simulators": self.simulators.alive}
        rate = self._rate(self.spent / (60 * self.settings.minutes))
        self.run.log("step", self.step, **means, learning_rate=rate, images=sum(self.maker.pool.count), **alive)

    def _rate(self, progress: float) -> float:
        """Linear warm-up, then half a cosine down to nearly nothing."""
        rise = min(1.0, (self.step + 1) / max(self.settings.warmup, 1))
        return self.settings.learning_rate * rise * (0.004 + 0.996 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            list(self.averaged.parameters()), list(self.objective.reconstructor.parameters()), 1 - decay
        )

    def _existing(self) -> list[Tensor]:
        return [p.grad for p in self.objective.parameters() if p.grad is not None]

    def _gradients(self, batch: ScanBatch, anomaly_map: Tensor) -> Mapping[str, Tensor]:
        """Losses of a batch, their gradients in the weights."""
        if not self._recording:
            self.optimiser.zero_grad(set_to_none=False)
            return _losses_and_gradients(self.objective, batch, anomaly_map)
        size = tuple(batch.kspace.shape)
        if size not in self._recorded:
            try:
                pool = next(iter(self._recorded.values())).pool if self._recorded else None
                self._recorded[size] = RecordedStep(self.objective, batch, anomaly_map, pool)
            except RuntimeError as error:
                self.run.log("not recorded", self.step, size=size, error=str(error)[:300])
                self._recording = False
                torch.cuda.synchronize()
                return self._gradients(batch, anomaly_map)
        return self._recorded[size](batch, anomaly_map)


def _losses_and_gradients(objective: MixtureObjective, batch: ScanBatch, anomaly_map: Tensor) -> dict[str, Tensor]:
    device, precision = anomaly_map.device.type, objective.settings.precision
    lower = precision == "bfloat16" or (precision == "auto" and device == "cuda")
    # Without the cache of converted weights: what it holds would belong to one recording and be used in another.
    with torch.autocast(device, torch.bfloat16, cache_enabled=False) if lower else nullcontext():
        losses: dict[str, Tensor] = objective(batch, anomaly_map)
    losses["loss"].backward()
    return {name: value.detach() for name, value in losses.items()}


class RecordedStep:
    """Losses and gradients of batches of one size as a CUDA graph.

    Parameters
    ----------
    objective
        Its parameters' gradients are set by every call.
    batch, anomaly_map
        Of the size; copied.
    pool
        Memory of an earlier recording, to be shared: only one plays at a time.
    """

    def __init__(self, objective: MixtureObjective, batch: ScanBatch, anomaly_map: Tensor, pool: Any) -> None:
        blobs = None if batch.blobs is None else Blobs(*[part.clone() for part in batch.blobs])
        self._batch = ScanBatch._make((*(part.clone() for part in batch.of_samples()), blobs))
        self._map = anomaly_map.clone()
        for parameter in objective.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in objective.parameters() if p.grad is not None]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                _losses_and_gradients(objective, self._batch, self._map)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            torch._foreach_zero_(gradients)
            self._losses = _losses_and_gradients(objective, self._batch, self._map)
        self.pool = self._graph.pool()

    def __call__(self, batch: ScanBatch, anomaly_map: Tensor) -> Mapping[str, Tensor]:
        """Losses of a batch, copied in; they hold until the next call."""
        torch._foreach_copy_([*self._batch.tensors(), self._map], [*batch.tensors(), anomaly_map])
        self._graph.replay()
        return self._losses


@torch.no_grad()
def validated(
    reconstructor: UnrolledReconstructor, examples: Sequence[Slices], lines: LineMixture, device: torch.device
) -> dict[str, float]:
    """PSNR of magnitudes in dB, by kind: a bundle's own lines at 4× and 8×, and evenly spaced ones with 26 for an ACS.

    Coil maps are estimated from the ACS, as at a scanner.
    """
    found: dict[str, list[float]] = {}
    for scan in validation_scans(examples, (4.0, 8.0), VALIDATION_NOISE, device):
        kind, pe = examinations_of(scan.slices)[0], scan.kspace.shape[-1]
        wide = acs_mask(pe, min(26, pe))
        every = round(scan.acceleration / 2)  # beside 4× and 8× evenly spaced lines of 2 and 4
        for name, mask in (
            (f"{kind}-{scan.acceleration:g}x", lines.own(kind, pe, scan.acceleration)),
            (f"{kind}-every{every}", (torch.arange(pe) % every == 0) | wide),
        ):
            acs = wide if "every" in name else acs_of(pe, scan.acceleration)
            maps = acs_maps(scan.kspace * acs.to(device), int(acs.sum()))
            image = reconstructor(scan.kspace, maps, mask.to(device))[0].abs()
            error = (image - scan.slices.image.abs()).square().mean()
            found.setdefault(name, []).append(float(-decibels(error)))
    return {name: sum(values) / len(values) for name, values in found.items()}


def train_mixture(settings: MixtureTraining, data: Sequence[Path], run_folder: Path, device: str = "auto") -> None:
    """Train, or go on training, one reconstructor for any lines.

    Of prepared datasets magnitudes and masks are taken, coils and phases are not. Parameters, errors: as
    `train_reconstruction`.
    """
    with joined_processes(device) as processes, opened_run(run_folder, settings, STAGE) as run:
        if processes.count > 1:
            raise InputError("this stage trains on one device: start it without torchrun")
        run.record_data(data)
        where = processes.device
        simulators = Simulators(settings.workers, settings.seed) if settings.workers else None
        try:
            pool = filled_pool(settings, data, where)
            maker = BatchMaker(settings, pool, shipped_populations(shipped_bundles()), where)
            examples = validation_slices(open_slices(data, "validation", KINDS[:-1]), settings.validation_slices)
            MixtureRun(settings, maker, run, where, simulators=simulators, examples=examples).train()
        finally:
            if simulators is not None:
                simulators.stop()


def filled_pool(settings: MixtureTraining, data: Sequence[Path], device: torch.device) -> ImagePool:
    """A pool with the training slices of prepared datasets, and with images that are no patients."""
    pool = ImagePool(settings.capacity, settings.shares, device, kept=settings.kept)
    for source in open_slices(data, "train", KINDS[:-1], fraction=settings.fraction):
        for number in range(len(source)):
            item = source[number]
            magnitude = resize_centre(item.image.abs(), (SIDE, SIDE))
            lesions = resize_centre(item.anomaly_mask.float(), (SIDE, SIDE)) > 0
            peak = magnitude.max().clamp(min=1e-6)
            pool.add(f"{item.anatomy}-{item.contrast}", (magnitude / peak)[None], lesions[None], keep=True)
        source.close()
    pool.add("other", public_images(settings.seed), keep=True)
    return pool
