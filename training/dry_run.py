"""What runs will take, before anything is run: steps, memory, disk and hours, from settings and shapes alone.

Networks are built without data (on PyTorch's device ``meta``), so that nothing is computed: what the forward pass of a
reconstructor would keep for the backward one is added up, operations and multiplications are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pass_recon.config import ReconstructorConfig, SamplerConfig
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.sampling.budget import acs_fraction
from pass_recon.sampling.personal import LineSampler
from pass_recon.types import InputError
from training.data.dataset import open_slices
from training.engine.amounts import gigabytes
from training.engine.run_folder import SETTINGS, settings_of
from training.recipe import Run
from training.stages.backbone import BackboneSettings
from training.stages.mixture import MixtureTraining
from training.stages.netad import NetADSettings
from training.stages.reconstruction import ReconstructionSettings
from training.stages.sampling import SamplingSettings

# Without data: fastMRI's brains.
_USUAL = (320, 320, 16)
# One H100: 5.5 µs to launch an operation, counted from 7,309 of them in 40 ms; and multiplications a second that the
# stage mixture reached (docs/training.md), in which all that is not convolution is contained.
_LAUNCH, _RATE = 5.5e-6, 20e12
# Weights, gradients, two moments of AdamW and the average in memory; weights twice, average twice and moments on disk.
_IN_MEMORY, _ON_DISK = 5, 6
_FOOTNOTE = (
    "computed from settings and shapes, nothing was run: memory is that of weights, optimiser and what is kept for the "
    "backward pass, without fragmentation and the libraries' own; hours are those of one H100 and were not measured"
)


@dataclass(frozen=True)
class Costs:
    """Of one step of one process.

    Attributes
    ----------
    learned
        Numbers that are learned.
    kept
        Bytes kept for the backward pass.
    flops
        Of convolutions and matrix products, both ways.
    operations
        Launched one after the other.
    """

    learned: int
    kept: int
    flops: float
    operations: int

    @property
    def memory(self) -> int:
        """Bytes on the device."""
        return 4 * self.learned * _IN_MEMORY + self.kept

    @property
    def disk(self) -> int:
        """Bytes of the run folder, but for pictures and logs."""
        return 4 * self.learned * _ON_DISK

    @property
    def seconds(self) -> float:
        """Of a step on one H100: of launches or of computing, whichever takes longer."""
        return max(self.operations * _LAUNCH, self.flops / _RATE)


def dry_run(runs: Sequence[Run], data: Sequence[Path], processes: int = 1) -> str:
    """A table of what runs will take.

    Parameters
    ----------
    runs
        In their order.
    data
        Prepared datasets; without any, slices of 320 × 320 with 16 coils are assumed.
    processes
        That train together.
    """
    head = ("run", "steps", "slices a step", "laps", "learned", "memory", "disk", "hours")
    rows, disk, hours = [head], 0, 0.0
    for run in runs:
        settings = run.settings
        slices, shape = _slices(data, settings)
        costs = costs_of(run, shape, {each.folder: each for each in runs})
        together = settings.batch * settings.accumulate * processes
        timed = isinstance(settings, MixtureTraining)
        took = settings.minutes / 60 if isinstance(settings, MixtureTraining) else _hours(costs, settings)
        disk, hours = disk + costs.disk, hours + (took or 0.0)
        rows.append(
            (
                run.folder.name,
                "by the clock" if timed else f"{settings.steps}",
                f"{together}",
                "–" if timed or not slices else f"{settings.steps * together / slices:.3g}",
                f"{costs.learned / 1e6:.3g} M" if costs.kept else "unknown",
                gigabytes(costs.memory) if costs.kept else "unknown",
                gigabytes(costs.disk) if costs.kept else "unknown",
                "unknown" if took is None else f"{took:.2g}",
            )
        )
    rows.append(("together", "", "", "", "", "", gigabytes(disk), f"{hours:.2g}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, _FOOTNOTE]) + "\n"


def costs_of(run: Run, shape: tuple[int, int, int], others: Mapping[Path, Run]) -> Costs:
    """What a step of a run takes, of slices of ``shape``: readout, phase encoding, coils."""
    settings = run.settings
    if isinstance(settings, ReconstructionSettings):
        implicit, rows = settings.implicit, settings.rows
        costs = _reconstructing(settings.reconstructor, settings, shape, rows, learns=True, implicit=implicit)
        populations = len(settings.examinations) * len(settings.accelerations) * settings.lines
        steps = settings.reconstructor.stages * (1 + 2 * settings.reconstructor.inner_iterations)
        # What goes into each step stays: x, r, u and the measured image, complex.
        inputs = 4 * steps * settings.batch * min(rows or shape[0], shape[0]) * shape[1] * 8
        kept = costs.kept // steps + inputs if settings.checkpointing else costs.kept
        looks = settings.reconstructor.stages if settings.look == "reconstruction" else 0
        weights, flops = _looking(settings, others, looks)
        return replace(costs, learned=costs.learned + populations, kept=kept + weights, flops=costs.flops + flops)
    if isinstance(settings, SamplingSettings):
        first = _stage_1(settings, others)
        costs = _reconstructing(first.reconstructor, settings, shape, settings.rows, learns=False)
        many = len(settings.accelerations)
        samplers = [
            LineSampler(SamplerConfig(first.lines, settings.network, acs_fraction(acceleration), centred=True))
            for acceleration in settings.accelerations
        ]
        weights, flops = _looking(settings, others, many)
        kept, computed = many * costs.kept + weights, many * costs.flops + flops
        return Costs(_count(samplers), kept, computed, many * costs.operations)
    if isinstance(settings, MixtureTraining):
        return _reconstructing(settings.reconstructor, settings, (384, 384, 10), 128, learns=True, implicit=True)
    return _transformer(settings)


def _reconstructing(
    config: ReconstructorConfig,
    settings: Any,
    shape: tuple[int, int, int],
    rows: int,
    *,
    learns: bool,
    implicit: bool = False,
) -> Costs:
    readout, phase, coils = shape
    network = UnrolledReconstructor(config, implicit=implicit).to("meta").requires_grad_(learns)
    size = (settings.batch, coils, min(rows or readout, readout), phase)
    kspace, maps = (torch.empty(size, dtype=torch.complex64, device="meta") for _ in range(2))
    lines = torch.empty(settings.batch, phase, device="meta", requires_grad=True)
    half = settings.precision != "float32"
    kept, operations, counter = _Kept(half), _Operations(), FlopCounterMode(display=False)
    with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor), operations, counter:
        *_, last = network.iterate(kspace, maps, lines, lambda image: image.abs())
        loss = torch.view_as_real(last.image).square().mean() + torch.view_as_real(last.global_image).square().mean()
        loss.backward()
    batch = sum(tensor.numel() * tensor.element_size() for tensor in (kspace, maps))
    return Costs(_count([network]) if learns else 0, kept.total + batch, counter.get_total_flops(), operations.count)


def _transformer(settings: Any) -> Costs:
    """Of a stage that learns with a vision transformer, by its configuration; unknown for other kinds.

    References
    ----------
    Korthikanti et al., Reducing activation recomputation in large transformer models, arXiv:2205.05198 (2022): bytes
    kept a block, here of single precision.
    """
    vision = _vision(settings)
    if not vision:
        return Costs(0, 0, 0.0, 0)
    width, layers = int(vision["width"]), int(vision["layers"])
    tokens = 1 + (int(vision["image_size"]) // int(vision["patch_size"])) ** 2
    heads = width // int(vision.get("head_width", 64))
    block = 12 * width**2
    images = settings.batch * (len(settings.examinations) or 1)
    kept = 2 * images * layers * tokens * (34 * width + 5 * heads * tokens)
    flops = 6.0 * images * layers * (tokens * block + 2 * tokens**2 * width)
    adapters = 4 * 2 * 2 * width * int(vision.get("embed_dim", width)) * (len(settings.examinations) or 1)
    learned = adapters if isinstance(settings, NetADSettings) else layers * block
    return Costs(learned, kept + (0 if learned > adapters else 4 * layers * block), flops, 60 * layers)


def _looking(
    settings: ReconstructionSettings | SamplingSettings, others: Mapping[Path, Run], looks: int
) -> tuple[int, float]:
    """Bytes of a frozen vision transformer through which a stage looks at its images, and what that computes."""
    planned = others.get(Path(settings.netad)) if settings.netad and looks else None
    vision = _vision(planned.settings) if planned else {}
    if not vision:
        return 0, 0.0
    weights = int(vision["layers"]) * 12 * int(vision["width"]) ** 2
    tokens = 1 + (int(vision["image_size"]) // int(vision["patch_size"])) ** 2
    return 4 * weights, 2.0 * looks * settings.batch * tokens * weights


def _vision(settings: Any) -> dict[str, Any]:
    model: Mapping[str, Any] = settings.model if isinstance(settings, BackboneSettings) else {}
    if isinstance(settings, NetADSettings) and settings.clip:
        import open_clip

        model = open_clip.get_model_config(settings.clip) or {}
    vision = dict(model.get("vision_cfg", {})) if isinstance(model, Mapping) else {}
    known = all(isinstance(vision.get(name), int) for name in ("width", "layers", "image_size", "patch_size"))
    return {**vision, "embed_dim": model.get("embed_dim", vision.get("width"))} if known else {}


def _stage_1(settings: SamplingSettings, others: Mapping[Path, Run]) -> ReconstructionSettings:
    path = Path(settings.reconstruction)
    planned = others.get(path)
    if planned is not None and isinstance(planned.settings, ReconstructionSettings):
        return planned.settings
    if not settings.reconstruction or not (path / SETTINGS).is_file():
        raise InputError("this stage needs the run of stage 1: say reconstruction=RUN, or try all runs of a recipe")
    return settings_of(path, ReconstructionSettings)


def _slices(data: Sequence[Path], settings: Any) -> tuple[int, tuple[int, int, int]]:
    """How many slices there are to learn from, and the largest of them."""
    if not data:
        return 0, _USUAL
    sources = open_slices(data, "train", getattr(settings, "examinations", ()), fraction=settings.fraction)
    cases = [case for source in sources for case in source.cases.values()]
    shapes = [(*case["shape"], case["coils"]) for case in cases]
    readout, phase, coils = (max(sizes) for sizes in zip(*shapes, strict=True))
    return sum(len(source) for source in sources), (readout, phase, coils)


def _hours(costs: Costs, settings: Any) -> float | None:
    return settings.steps * settings.accumulate * costs.seconds / 3600 if costs.flops else None


def _count(networks: Iterable[nn.Module]) -> int:
    return sum(weight.numel() for network in networks for weight in network.parameters())


class _Kept:
    """Adds up what is saved for the backward pass, each piece of memory once."""

    def __init__(self, half: bool) -> None:
        self._half, self._seen, self.total = half, {}, 0  # type: ignore[var-annotated]

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = storage  # held, so that nothing else gets its place
            # Real numbers belong to networks, complex ones to the physics, which stays in single precision.
            self.total += storage.nbytes() // (2 if self._half and tensor.dtype == torch.float32 else 1)
        return tensor


class _Operations(TorchDispatchMode):
    """Counts operations that do something; views do not."""

    count = 0

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.count += not getattr(function, "is_view", False)
        return function(*args, **(kwargs or {}))
