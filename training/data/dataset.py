"""A prepared dataset as PyTorch sees it: slices with their coil maps, in batches that make k-space on the device.

    slices = SliceDataset("dataset", split="train", anatomy="brain", contrast="flair")
    loader = DataLoader(slices, batch_size=4, shuffle=True, num_workers=2, collate_fn=collate, persistent_workers=True)
    for batch in loader:
        batch = batch.to("cuda")
        kspace = batch.kspace(noise=(0.002, 0.02), generator=generator)

Workers only read; the Fourier transform and the noise are made from the batch where the network runs. Measured cases
have their own noise and get no other; simulated ones get fresh noise each time, or, with ``fixed``, always the same.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from pass_recon.phantom.draws import mixed_seed
from pass_recon.physics.fourier import fft2c
from pass_recon.types import InputError
from training.data.case_file import SUFFIX, CaseFile
from training.data.manifest import read_manifest, subset

Split = Literal["train", "validation", "test"]
_OPEN_FILES = 64


@dataclass(frozen=True)
class Slices:
    """One slice, or a batch of them with a leading axis.

    Attributes
    ----------
    image
        ``(ro, pe)`` complex64 ground truth; the peak of the volume is 1.
    stored_maps
        ``(coils, ro, pe, 2)`` float16, as they lie in the file: half the bytes to hand from the workers to the device.
        Use `coil_maps`. In a batch, missing coils of a slice are zero.
    stored_images
        Likewise what the coils of measured cases saw, with their noise; None where k-space comes from ``image``.
    anomaly_mask
        ``(ro, pe)`` bool: lesions by pixel, or the insides of the boxes.
    label
        1 abnormal, 0 normal, −1 unknown.
    noise
        Noise of a sample of one coil, E|n|² = noise²: held by measured cases, suggested for others.
    line_range
        ``(2,)`` first line with data and the one after the last.
    boxes, caption, case, slice_index, anatomy, contrast
        One of each, or a tuple with one a slice.
    anomaly_map
        ``(ro, pe)`` in 0 to 1, what a detector sees in ``image``; None where none has looked.
    """

    image: Tensor
    stored_maps: Tensor
    stored_images: Tensor | None
    anomaly_mask: Tensor
    label: Tensor
    noise: Tensor
    line_range: Tensor
    boxes: tuple[Any, ...]
    caption: Any
    case: Any
    slice_index: Any
    anatomy: Any
    contrast: Any
    anomaly_map: Tensor | None = None

    @property
    def coil_maps(self) -> Tensor:
        """``(coils, ro, pe)`` complex64, converted anew on every access: on the device, so convert once a batch."""
        return torch.view_as_complex(self.stored_maps.float())

    @property
    def reachable(self) -> Tensor:
        """``(pe,)``, of a batch ``(b, pe)``, bool: the lines of `line_range`, which are all that a scanner has."""
        place = torch.arange(self.image.shape[-1], device=self.line_range.device)
        return (self.line_range[..., :1] <= place) & (place < self.line_range[..., 1:])

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> Slices:
        """The same on a device."""
        moved: dict[str, Any] = {
            item.name: value.to(device, non_blocking=non_blocking)
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **moved)

    def pin_memory(self) -> Slices:
        """The same in page-locked memory; a data loader with ``pin_memory`` calls it."""
        pinned: dict[str, Any] = {
            item.name: value.pin_memory()
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **pinned)

    def kspace(
        self,
        *,
        noise: float | tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
        fixed: bool = False,
    ) -> Tensor:
        """K-space with every line, ``([batch,] coils, ro, pe)`` complex64, on the device of the slices.

        Parameters
        ----------
        noise
            Standard deviation for slices that were not measured, or the two ends of a range of which each slice gets
            a value, evenly on a logarithmic scale; each case's own suggestion by default.
        generator
            On the same device, for fresh noise; the device's own by default.
        fixed
            Noise that depends on the case and the slice alone: the same in every run and on every device.
        """
        single = self.image.ndim == 2
        image, maps = (x[None] if single else x for x in (self.image, self.coil_maps))
        coil_images = maps * image[:, None]
        measured = torch.zeros(len(image), dtype=torch.bool, device=image.device)
        if self.stored_images is not None:
            stored = torch.view_as_complex(self.stored_images.float())
            stored = stored[None] if single else stored
            measured = stored.flatten(1).abs().amax(1) > 0
            coil_images = torch.where(measured[:, None, None, None], stored, coil_images)
        kspace = fft2c(coil_images)
        sigma = self._sigma(noise, len(image), generator, fixed=fixed).masked_fill(measured, 0.0)
        # Noise that was asked for is made without a look at the device.
        if bool((sigma > 0).any()) if noise is None else noise != 0:
            # Coils that only fill up the batch stay silent.
            present = maps.abs().flatten(2).amax(2) > 0
            white = self._white_noise(kspace, generator, fixed=fixed)
            kspace = kspace + (sigma[:, None] * present)[..., None, None] * white
        return kspace[0] if single else kspace

    def _keys(self) -> list[tuple[str, int]]:
        return list(zip(_listed(self.case), _listed(self.slice_index), strict=True))

    def _sigma(
        self,
        noise: float | tuple[float, float] | None,
        count: int,
        generator: torch.Generator | None,
        *,
        fixed: bool,
    ) -> Tensor:
        device = self.image.device
        if noise is None:
            return self.noise.reshape(-1).to(device)
        low, high = noise if isinstance(noise, tuple) else (noise, noise)
        if low == high:
            return torch.full((count,), float(low), device=device)
        if not 0 < low < high:
            raise InputError(f"the range of noise must be positive and rising, got {noise}")
        if fixed:
            place = torch.tensor([mixed_seed(*key, "noise level") % 2**20 / 2**20 for key in self._keys()]).to(device)
        else:
            place = torch.rand(count, device=device, generator=generator)
        return torch.exp(math.log(low) + (math.log(high) - math.log(low)) * place)

    def _white_noise(self, like: Tensor, generator: torch.Generator | None, *, fixed: bool) -> Tensor:
        if not fixed:
            return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
        rows = [
            torch.randn(like.shape[1:], dtype=like.dtype, generator=torch.Generator().manual_seed(mixed_seed(*key)))
            for key in self._keys()
        ]
        return torch.stack(rows).to(like.device)


class SliceDataset(Dataset[Slices]):
    """The slices of a prepared dataset, case after case.

    Parameters
    ----------
    folder
        What ``pass-recon train prepare`` wrote.
    split
        ``train``, ``validation`` or ``test``; all by default.
    anatomy, contrast
        Only these; all by default.
    cases
        Only cases of these names.

    Attributes
    ----------
    entries
        ``(case, slice)`` of each item.
    cases
        The manifest's entry of each case, by name.

    Raises
    ------
    InputError
        If the folder is no prepared dataset, or nothing in it fits.
    """

    def __init__(
        self,
        folder: str | Path,
        split: Split | None = None,
        *,
        anatomy: str | None = None,
        contrast: str | None = None,
        cases: Sequence[str] | None = None,
    ) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        wanted = {"split": split, "anatomy": anatomy, "contrast": contrast}
        self.cases: dict[str, Mapping[str, Any]] = {
            case["name"]: case
            for case in manifest["cases"]
            if all(value is None or case[key] == value for key, value in wanted.items())
            and (cases is None or case["name"] in cases)
        }
        self.entries = [(name, index) for name, case in self.cases.items() for index in range(case["slices"])]
        if not self.entries:
            asked = {**wanted, "cases": cases}
            asked = {key: value for key, value in asked.items() if value is not None}
            raise InputError(f"{self.folder} holds no slice that fits {asked}")
        self._files: OrderedDict[str, CaseFile] = OrderedDict()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, number: int) -> Slices:
        name, index = self.entries[number]
        case = self._file(name)
        record = case.records[index]
        return Slices(
            image=case.image(index),
            stored_maps=case.halves("coil_maps", index),
            stored_images=case.halves("coil_images", index) if case.info.measured else None,
            anomaly_mask=case.anomaly_mask(index),
            label=torch.tensor(record.label),
            noise=torch.tensor(case.info.noise),
            line_range=torch.tensor(case.info.line_range),
            boxes=record.boxes,
            caption=record.caption,
            case=name,
            slice_index=index,
            anatomy=case.info.anatomy,
            contrast=case.info.contrast,
        )

    def __getstate__(self) -> dict[str, Any]:
        # HDF5 files cannot be shared between processes: each worker opens its own.
        return {**self.__dict__, "_files": OrderedDict()}

    def labels(self) -> list[int]:
        """Label of every item, for samplers that balance them."""
        return [self._file(name).records[index].label for name, index in self.entries]

    def matrices(self) -> list[tuple[int, int]]:
        """``(ro, pe)`` of every item, for samplers whose batches have one size."""
        return [(readout, phase) for name, _ in self.entries for readout, phase in [self.cases[name]["shape"]]]

    def close(self) -> None:
        """Close the files."""
        while self._files:
            self._files.popitem()[1].close()

    def _file(self, name: str) -> CaseFile:
        if name in self._files:
            self._files.move_to_end(name)
            return self._files[name]
        if len(self._files) >= _OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        self._files[name] = CaseFile(self.folder / (name + SUFFIX))
        return self._files[name]


def open_slices(
    folders: Sequence[str | Path], split: Split, examinations: Sequence[str] = (), *, fraction: float = 1.0
) -> list[SliceDataset]:
    """The slices of a split, one dataset for each folder and examination that has any.

    Parameters
    ----------
    folders
        Prepared datasets.
    split
        ``train``, ``validation`` or ``test``.
    examinations
        ``anatomy-contrast``, such as ``brain-t1``; all by default.
    fraction
        Share of the cases of each dataset and examination.

    Raises
    ------
    InputError
        If nothing fits.
    """
    found = []
    for folder in folders:
        whole = SliceDataset(folder)
        cases = subset([case for case in whole.cases.values() if case["split"] == split], fraction)
        names = [case["name"] for case in cases]
        for anatomy, contrast in sorted({(case["anatomy"], case["contrast"]) for case in cases}):
            if not examinations or f"{anatomy}-{contrast}" in examinations:
                found.append(SliceDataset(folder, split, anatomy=anatomy, contrast=contrast, cases=names))
    if not found:
        told = ", ".join(examinations) or "any examination"
        raise InputError(
            f"no {split} slices of {told} in {', '.join(map(str, folders))}: prepare more patients, or share "
            "them out by --split, 0.6 0.2 0.2 say"
        )
    return found


def collate(items: Sequence[Slices]) -> Slices:
    """Make a batch; slices with fewer coils than others get silent ones.

    Raises
    ------
    InputError
        If the images differ in size.
    """
    shapes = {tuple(item.image.shape) for item in items}
    if len(shapes) > 1:
        raise InputError(f"slices of different sizes cannot be one batch: {sorted(shapes)}")
    coils = max(item.stored_maps.shape[0] for item in items)
    silent = torch.zeros_like(items[0].stored_maps)
    images = None
    if any(item.stored_images is not None for item in items):
        images = default_collate(
            [_with_coils(silent if item.stored_images is None else item.stored_images, coils) for item in items]
        )
    # default_collate writes straight to the memory that workers share with the training process.
    together: dict[str, Any] = {
        name: default_collate([getattr(item, name) for item in items])
        for name in ("image", "anomaly_mask", "label", "noise", "line_range")
    } | {
        name: tuple(getattr(item, name) for item in items)
        for name in ("boxes", "caption", "case", "slice_index", "anatomy", "contrast")
    }
    maps = default_collate([_with_coils(item.stored_maps, coils) for item in items])
    seen = [item.anomaly_map for item in items if item.anomaly_map is not None]
    if seen and len(seen) < len(items):
        raise InputError(f"a detector has looked at {len(seen)} of the {len(items)} slices of a batch")
    anomaly_map = default_collate(seen) if seen else None
    return Slices(stored_maps=maps, stored_images=images, anomaly_map=anomaly_map, **together)


def _with_coils(stored: Tensor, coils: int) -> Tensor:
    if stored.shape[0] == coils:
        return stored
    return torch.cat((stored, stored.new_zeros(coils - stored.shape[0], *stored.shape[1:])))


def _listed(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
