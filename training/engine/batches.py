"""Batches of training slices, augmented: decided by the seed and the number of the step alone, so that runs can go on.

Crops are cut along the readout only. The readout is fully sampled, so after its Fourier transform every row of the
image is a problem by itself: a crop of some rows with all phase-encoding lines is exact, and trains as well as whole
slices at a fraction of the memory. The same cannot be done along phase encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from pass_recon.phantom.draws import mixed_seed
from training.data.dataset import SliceDataset, Slices, collate
from training.engine.order import Key, Order
from training.engine.processes import Processes
from training.engine.settings import ReadingSettings, TrainingSettings

Detect = Callable[[Slices, torch.Generator], Tensor]
"""A whole slice, and chance, to its anomaly map ``(ro, pe)``."""


class Batches:
    """Batches of training slices, each of one matrix size, each source (dataset) as often as any other that has it.

    Parameters
    ----------
    sources
        Datasets.
    settings
        Batch size, accumulation, seed and workers.
    processes
        Each process gets other slices.
    first
        Step to begin with.
    rows
        Readout rows of a crop; 0 keeps whole slices.
    detect
        Gives each slice its anomaly map, before it is cropped.
    """

    def __init__(
        self,
        sources: Sequence[SliceDataset],
        settings: ReadingSettings,
        processes: Processes,
        *,
        first: int = 0,
        rows: int = 0,
        detect: Detect | None = None,
    ) -> None:
        self._parts = settings.accumulate
        order = Order(sources, settings, processes, first)
        self._loader = DataLoader(
            AugmentedSlices(sources, settings.seed, rows, detect),
            batch_sampler=order,
            num_workers=settings.workers,
            collate_fn=collate,
            pin_memory=processes.device.type == "cuda",
            persistent_workers=False,
        )
        self._device = processes.device
        self._items: Iterator[Slices] | None = None

    def of_step(self) -> Iterator[Slices]:
        """The batches of the step that is due, on the device; the next call gives those of the next step."""
        if self._items is None:
            self._items = iter(self._loader)
        for _ in range(self._parts):
            yield next(self._items).to(self._device, non_blocking=True)


class AugmentedSlices(Dataset[Slices]):
    """Slices by their key, flipped along either axis by chance, and cropped along the readout."""

    def __init__(self, sources: Sequence[SliceDataset], seed: int, rows: int, detect: Detect | None = None) -> None:
        self._slices: ConcatDataset[Slices] = ConcatDataset(sources)
        self._seed, self._rows, self._detect = seed, rows, detect

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, key: Key) -> Slices:
        place, number = key
        draw = torch.Generator().manual_seed(mixed_seed(self._seed, "augmentation", place))
        item: Slices = self._slices[number]
        if self._detect is not None:
            item = replace(item, anomaly_map=self._detect(item, draw))
        if self._rows:
            item = crop_readout(item, self._rows, draw)
        axes = [axis for axis in (-2, -1) if torch.rand((), generator=draw) < 0.5]
        return flipped(item, axes)


def crop_readout(item: Slices, rows: int, draw: torch.Generator) -> Slices:
    """``rows`` rows of a slice, as `chosen_rows` chooses them. Boxes are dropped: they belong to the whole slice."""
    return _on_rows(item, chosen_rows(item.image, item.anomaly_mask, rows, draw))


def chosen_rows(image: Tensor, lesions: Tensor, rows: int, draw: torch.Generator) -> slice:
    """A run of rows of an image ``(ro, pe)`` at any place of the anatomy; every second time across a lesion, if any."""
    height = image.shape[-2]
    if not 0 < rows < height:
        return slice(0, height)
    low, high = 0, height - rows
    touched = lesions.any(-1).nonzero().flatten()
    if len(touched) and torch.rand((), generator=draw) < 0.5:
        row = int(touched[torch.randint(len(touched), (1,), generator=draw)])
        low, high = max(low, row - rows + 1), min(high, row)
    else:
        # Rows of air teach little.
        magnitude = image.abs().amax(-1)
        shown = (magnitude > 0.1 * magnitude.max()).nonzero().flatten()
        if len(shown):
            low = min(high, max(low, int(shown[0]) - rows // 4))
            high = max(low, min(high, int(shown[-1]) - 3 * rows // 4))
    first = int(torch.randint(low, high + 1, (1,), generator=draw))
    return slice(first, first + rows)


def flipped(item: Slices, axes: list[int]) -> Slices:
    """The slice mirrored along axes of the image (−2 readout, −1 phase encoding); its boxes are dropped."""
    if not axes:
        return item
    inner = [axis - 1 for axis in axes]
    return replace(
        item,
        image=item.image.flip(axes),
        stored_maps=item.stored_maps.flip(inner),
        stored_images=None if item.stored_images is None else item.stored_images.flip(inner),
        anomaly_mask=item.anomaly_mask.flip(axes),
        anomaly_map=None if item.anomaly_map is None else item.anomaly_map.flip(axes),
        line_range=_mirrored(item.line_range, item.image.shape[-1]) if -1 in axes else item.line_range,
        boxes=(),
    )


def _mirrored(line_range: Tensor, pe: int) -> Tensor:
    """Lines of the mirrored image: k turns into −k, which for the outermost line of an even number is itself."""
    first, stop = (int(line) for line in line_range)
    if (first, stop) == (0, pe):
        return line_range
    centre = pe // 2
    return line_range.new_tensor([2 * centre - stop + 1, min(2 * centre - first + 1, pe)])


def step_generator(settings: TrainingSettings, step: int, processes: Processes, part: int = 0) -> torch.Generator:
    """Fresh randomness of one batch, the same whenever this step is done again."""
    seed = mixed_seed(settings.seed, "step", step, part, processes.rank)
    return torch.Generator(device=processes.device).manual_seed(seed)


def _on_rows(item: Slices, rows: slice) -> Slices:
    images: Any = item.stored_images
    return replace(
        item,
        image=item.image[rows],
        stored_maps=item.stored_maps[:, rows],
        stored_images=None if images is None else images[:, rows],
        anomaly_mask=item.anomaly_mask[rows],
        anomaly_map=None if item.anomaly_map is None else item.anomaly_map[rows],
        boxes=(),
    )


def validation_slices(sources: Sequence[SliceDataset], count: int) -> list[Slices]:
    """About ``count`` whole slices spread over all examinations, always the same, those with lesions first."""
    share = max(1, count // len(sources))
    return [source[number] for source in sources for number in _spread(source, share)]


def _spread(source: SliceDataset, count: int) -> list[int]:
    labels: Tensor = torch.tensor(source.labels())
    abnormal = (labels == 1).nonzero().flatten()
    pool = abnormal if len(abnormal) >= count else torch.arange(len(labels))
    places = torch.linspace(0, len(pool) - 1, count + 2)[1:-1] if len(pool) > count else torch.arange(len(pool))
    return [int(pool[int(place)]) for place in places]
