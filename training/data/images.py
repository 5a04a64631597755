"""Images with their lesions, without coil maps: what detectors are trained on. Kept in memory once they were read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pass_recon.anatomies import ANATOMIES
from pass_recon.anomaly.prompts import diagnoses
from pass_recon.phantom.draws import mixed_seed
from pass_recon.types import Box, InputError
from training.data.case_file import ABNORMAL, NORMAL, SUFFIX, CaseFile
from training.data.dataset import SliceDataset, Split, open_slices

UNNAMED = 255
"""Class of lesion pixels of which nobody said what they are."""


@dataclass(frozen=True)
class ImageSlice:
    """One slice, or a batch of them with a leading axis and tuples.

    Attributes
    ----------
    image
        ``(ro, pe)`` complex64.
    classes
        ``(ro, pe)`` uint8: 0 where nothing was found, else 1 + the number among `diagnoses` of the anatomy, or UNNAMED.
    label
        1 abnormal, 0 normal, −1 unknown.
    reviewed
        Whether pixels outside all lesions are known to be normal.
    caption, examination
        A sentence; ``anatomy-contrast``.
    """

    image: Tensor
    classes: Tensor
    label: Tensor
    reviewed: Tensor
    caption: tuple[str, ...]
    examination: tuple[str, ...]

    @property
    def mask(self) -> Tensor:
        """Lesion pixels."""
        return self.classes > 0

    @property
    def located(self) -> Tensor:
        """Whether pixels tell where what was found is: not in an abnormal slice without a box, all of which may be."""
        return (self.label != ABNORMAL) | self.mask.flatten(-2).any(-1)

    @property
    def anatomy(self) -> tuple[str, ...]:
        """Of each slice."""
        return tuple(examination.split("-")[0] for examination in self.examination)

    def to(self, device: torch.device) -> ImageSlice:
        """The same on a device."""
        names = ("image", "classes", "label", "reviewed")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


class ImageSource:
    """Slices of one dataset and examination.

    Parameters
    ----------
    slices
        Which ones.
    size
        Side of the square that every image is brought to, in pixels.
    budget
        Bytes of images to keep in memory.
    """

    def __init__(self, slices: SliceDataset, size: int, *, budget: float = 4e9) -> None:
        self.entries, self.size = slices.entries, size
        self._folder, self._budget = slices.folder, budget
        self._memory: dict[int, ImageSlice] = {}
        labels = torch.tensor(slices.labels())
        slices.close()
        self.normal, self.abnormal, self.others = (
            (labels == value).nonzero().flatten().tolist() for value in (NORMAL, ABNORMAL, -1)
        )
        first = next(iter(slices.cases.values()))
        self.examination = f"{first['anatomy']}-{first['contrast']}"

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, number: int) -> ImageSlice:
        if number not in self._memory:
            item = self._read(number)
            if (len(self._memory) + 1) * item.image.nbytes * 9 / 8 > self._budget:
                return item
            self._memory[number] = item
        return self._memory[number]

    def _read(self, number: int) -> ImageSlice:
        name, index = self.entries[number]
        with CaseFile(self._folder / (name + SUFFIX)) as case:
            record, info = case.records[index], case.info
            image, mask = case.image(index), case.anomaly_mask(index)
        classes = lesion_classes(mask, record.boxes, info.anatomy)
        caption = record.caption if record.caption.endswith(".") else written_caption(
            info.anatomy, info.contrast, record.boxes, record.label
        )  # fmt: skip
        return ImageSlice(
            image=fitted_square(torch.view_as_real(image).movedim(-1, 0), self.size, smooth=True),
            classes=fitted_square(classes[None].float(), self.size, smooth=False),
            label=torch.tensor(record.label),
            reviewed=torch.tensor(info.reviewed),
            caption=(caption,),
            examination=(f"{info.anatomy}-{info.contrast}",),
        )


def open_images(
    folders: Sequence[str | Path], split: Split, examinations: Sequence[str], size: int, *, fraction: float = 1.0
) -> list[ImageSource]:
    """A source for each folder and examination that has slices of a split; errors as `open_slices`."""
    return [ImageSource(slices, size) for slices in open_slices(folders, split, examinations, fraction=fraction)]


def lesion_classes(mask: Tensor, boxes: Sequence[Box], anatomy: str) -> Tensor:
    """Each lesion pixel with the number of the finding whose box it lies in; the smallest box wins."""
    numbers = {finding.label: 1 + number for number, finding in enumerate(diagnoses(anatomy))}
    classes = torch.full(mask.shape, UNNAMED, dtype=torch.uint8)
    for box in sorted(boxes, key=lambda box: -box.readout_size * box.phase_size):
        rows = slice(box.readout, box.readout + box.readout_size)
        classes[rows, box.phase : box.phase + box.phase_size] = numbers.get(box.label, UNNAMED)
    return classes * mask


def written_caption(anatomy: str, contrast: str, boxes: Sequence[Box], label: int) -> str:
    """A sentence where the data has none; of a slice that nobody judged it says nothing about health."""
    phrases = {finding.label: finding.phrase for finding in ANATOMIES[anatomy].findings}
    found = " and ".join(dict.fromkeys(phrases.get(box.label, "a lesion") for box in boxes))
    state = f", with {found}" if found else {NORMAL: ", with no lesion", ABNORMAL: ", with a lesion"}.get(label, "")
    return f"{contrast.upper()} MRI, {anatomy}{state}."


def drawn(sources: Sequence[ImageSource], seed: int, place: int, *, abnormal: float = 0.6) -> ImageSlice:
    """The slice at a place in the order of all slices ever seen.

    Examinations take turns, of the sources of an examination one comes as often as it has slices, and abnormal slices
    come more often.
    """
    examinations = sorted({source.examination for source in sources})
    those = [source for source in sources if source.examination == examinations[place % len(examinations)]]
    draw = torch.Generator().manual_seed(mixed_seed(seed, "slice", place))
    chance, number, which = torch.rand(3, generator=draw).tolist()
    ends = torch.tensor([len(source) for source in those]).cumsum(0)
    source = those[int(torch.searchsorted(ends, int(which * int(ends[-1])), right=True))]
    healthy = source.normal + source.others
    pool = source.abnormal if source.abnormal and (chance < abnormal or not healthy) else healthy
    return source[pool[int(number * len(pool))]]


def stacked(items: Sequence[ImageSlice]) -> ImageSlice:
    """A batch."""
    if not items:
        raise InputError("a batch needs at least one slice")
    together = {
        name: torch.stack([getattr(item, name) for item in items]) for name in ("image", "classes", "label", "reviewed")
    }
    return ImageSlice(
        **together,
        caption=tuple(item.caption[0] for item in items),
        examination=tuple(item.examination[0] for item in items),
    )


def joined(batches: Sequence[ImageSlice]) -> ImageSlice:
    """One batch of several."""
    together = {
        name: torch.cat([getattr(batch, name) for batch in batches])
        for name in ("image", "classes", "label", "reviewed")
    }
    return ImageSlice(
        **together,
        caption=tuple(entry for batch in batches for entry in batch.caption),
        examination=tuple(entry for batch in batches for entry in batch.examination),
    )


def fitted_square(planes: Tensor, size: int, *, smooth: bool) -> Tensor:
    """Planes ``(1 or 2, ro, pe)`` → ``(size, size)`` uint8 or complex64, padded to a square first."""
    height, width = planes.shape[1:]
    side = max(height, width)
    top, left = side // 2 - height // 2, side // 2 - width // 2
    planes = F.pad(planes, (left, side - width - left, top, side - height - top))[None]
    if side != size and smooth:
        planes = F.interpolate(planes, (size, size), mode="bilinear", antialias=True, align_corners=False)
    elif side != size:
        planes = F.interpolate(planes, (size, size), mode="nearest-exact")
    if smooth:
        return torch.view_as_complex(planes[0].movedim(0, -1).contiguous())
    return planes[0, 0].to(torch.uint8)
