"""Magnitudes kept on the device and changed a little at every use, while new simulated patients come in."""

from __future__ import annotations

import math
import multiprocessing
import os
import queue
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pass_recon.phantom.draws import mixed_seed
from pass_recon.physics.fourier import fft2c, ifft2c, resize_centre

KINDS = ("brain-t1", "brain-flair", "knee-pd", "other")
"""``other``: images that are no patients, so that an anatomy that nobody simulated is served as well."""
SIDE = 320
# Of scikit-image's own package: nothing is downloaded.
PUBLIC = (
    "astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "grass", "gravel",
    "hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket", "text",
)  # fmt: skip


class ImagePool:
    """Square magnitudes of peak 1 by kind, in a memory of fixed size: once it is full, the new replace the oldest.

    Parameters
    ----------
    capacity
        Images of each kind.
    shares
        How often each of ``KINDS`` is drawn.
    device
        Where they are kept.
    kept
        Share of draws among images that are never replaced. Real ones are few beside simulated ones without end, and
        a network that meets them rarely takes their fine grain for noise.
    """

    def __init__(self, capacity: int, shares: Sequence[float], device: torch.device, *, kept: float = 0.4) -> None:
        self.shares, self.device, self._capacity, self._kept_share = tuple(shares), device, capacity, kept
        size = (len(KINDS) * capacity, SIDE, SIDE)
        self._magnitude = torch.zeros(size, dtype=torch.float16, device=device)
        self._lesions = torch.zeros(size, dtype=torch.bool, device=device)
        self.count = [0] * len(KINDS)
        self._kept = [0] * len(KINDS)

    def add(self, kind: str, magnitude: Tensor, lesions: Tensor | None = None, *, keep: bool = False) -> None:
        """Add ``(n, 320, 320)`` magnitudes and masks of lesions; with ``keep``, they are never replaced."""
        number = KINDS.index(kind)
        count, kept = self.count[number], self._kept[number]
        ring = self._capacity - kept
        if keep:
            places = torch.arange(kept, min(kept + len(magnitude), self._capacity))
            self._kept[number] = int(kept + len(places))
        else:
            places = kept + (count - kept + torch.arange(len(magnitude))) % max(ring, 1)
        self.count[number] += len(places)
        places = (number * self._capacity + places).to(self.device)
        self._magnitude[places] = magnitude[: len(places)].to(self.device, torch.float16)
        self._lesions[places] = False if lesions is None else lesions[: len(places)].to(self.device)

    def draw(
        self, batch: int, shape: tuple[int, int], chance: random.Random, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, list[str]]:
        """Magnitudes ``(batch, ro, pe)`` of peak 1, masks of lesions, and the kinds."""
        available = [share if count else 0.0 for share, count in zip(self.shares, self.count, strict=True)]
        kinds = chance.choices(range(len(KINDS)), available, k=batch)
        index = torch.tensor([self._place(kind, chance) for kind in kinds], device=self.device)
        planes = torch.stack((self._magnitude[index].float(), self._lesions[index].float()), 1)
        planes = _on_grid(_turned(planes, kinds, chance), shape, chance)
        magnitude = _other_contrast(planes[:, 0].clamp(min=0), kinds, chance, generator)
        return magnitude, planes[:, 1] > 0.5, [_own_kind(kind, chance) for kind in kinds]

    def _place(self, kind: int, chance: random.Random) -> int:
        kept, there = self._kept[kind], min(self.count[kind], self._capacity)
        if kept and (kept == there or chance.random() < self._kept_share):
            return kind * self._capacity + chance.randrange(kept)
        return kind * self._capacity + chance.randrange(kept, there)


def _own_kind(number: int, chance: random.Random) -> str:
    """Whose lines a slice is scanned with: its own kind's, or those of any where it has none."""
    return KINDS[number] if KINDS[number] != "other" else chance.choice(KINDS[:-1])


def _turned(planes: Tensor, kinds: Sequence[int], chance: random.Random) -> Tensor:
    """Mirror images, and a quarter turn: rarely of heads, where phase encoding has its direction."""
    often = {"other": 0.5, "knee-pd": 0.3}
    turn = torch.tensor([chance.random() < often.get(KINDS[kind], 0.15) for kind in kinds], device=planes.device)
    planes = torch.where(turn[:, None, None, None], planes.mT, planes)
    for axis in (-1, -2):
        mirror = torch.tensor([chance.random() < 0.5 for _ in kinds], device=planes.device)
        planes = torch.where(mirror[:, None, None, None], planes.flip(axis), planes)
    return planes


def _on_grid(planes: Tensor, shape: tuple[int, int], chance: random.Random) -> Tensor:
    """Another resolution and field of view: the whole body, or one that reaches the edges of the field of view."""
    whole = max(shape) / SIDE  # at this factor the longer side holds the whole image
    if whole == 1.0 and chance.random() < 0.5:
        factor = 1.0  # untouched: interpolation takes the finest detail
    elif chance.random() < 0.65:
        factor = whole * chance.uniform(0.92, 1.2)
    else:
        factor = min(1.3, whole * chance.uniform(1.2, 2.0))  # bodies that pass the edge
    size = round(SIDE * factor)
    if size != SIDE:
        if factor < 0.95 and chance.random() < 0.5:
            # As a scan of low resolution is: cut off in k-space, with its ringing.
            low = ifft2c(resize_centre(fft2c(planes[:, 0]), (size, size))).abs() * factor
            mask = functional.interpolate(planes[:, 1:], (size, size), mode="bilinear", antialias=True)[:, 0]
            planes = torch.stack((low, mask), 1)
        else:
            planes = functional.interpolate(planes, (size, size), mode="bicubic", antialias=True)
    shifts = [
        chance.randint(-slack, slack) if (slack := round(0.08 * size + 0.5 * max(size - wanted, 0))) else 0
        for wanted in shape
    ]
    return resize_centre(_moved(planes, shifts), shape)


def _moved(planes: Tensor, shifts: Sequence[int]) -> Tensor:
    """Move what is shown without wrapping around: beyond the image there is nothing."""
    size = planes.shape[-1]
    moved = torch.zeros_like(planes)
    (y, x) = shifts
    moved[..., max(y, 0) : size + min(y, 0), max(x, 0) : size + min(x, 0)] = planes[
        ..., max(-y, 0) : size - max(y, 0), max(-x, 0) : size - max(x, 0)
    ]
    return moved


def _other_contrast(
    magnitude: Tensor, kinds: Sequence[int], chance: random.Random, generator: torch.Generator
) -> Tensor:
    """Curves and shading of intensity, noise that belongs to the truth as in measured references; peak 1."""
    device, batch = magnitude.device, len(magnitude)

    def each(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=device)[:, None, None]

    peak = magnitude.amax((-2, -1), keepdim=True).clamp(min=1e-6)
    magnitude = (magnitude / peak).clamp(0, 1)
    curve = each([math.exp(chance.gauss(0, 0.25)) if chance.random() < 0.5 else 1.0 for _ in kinds])
    magnitude = magnitude**curve
    coarse = torch.randn(batch, 1, 4, 4, generator=generator, device=device)
    field = functional.interpolate(coarse, magnitude.shape[-2:], mode="bicubic", align_corners=True)[:, 0]
    magnitude = magnitude * (each([chance.uniform(0, 0.35) for _ in kinds]) * field).exp()
    grain = {"knee-pd": 0.2, "other": 0.1}
    sigma = each([chance.uniform(0.004, 0.02) if chance.random() < grain.get(KINDS[k], 0.04) else 0.0 for k in kinds])
    white = torch.randn(batch, 2, *magnitude.shape[-2:], generator=generator, device=device)
    noisy = torch.hypot(magnitude + sigma * white[:, 0], sigma * white[:, 1])
    magnitude = torch.where(sigma > 0, noisy, magnitude)
    return magnitude / magnitude.amax((-2, -1), keepdim=True).clamp(min=1e-6)


def random_patterns(count: int, seed: int) -> Tensor:
    """``(count, 320, 320)`` of peak 1: ellipses, stripes and fractal noise within a body of random outline."""
    generator = torch.Generator().manual_seed(mixed_seed(seed, "patterns"))
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    images = []
    for _ in range(count):
        draw = torch.rand(400, generator=generator).tolist()
        take = iter(draw)
        outline = 0.75 + 0.2 * torch.sin(3 * torch.atan2(y, x) + 6 * next(take)) * next(take)
        body = torch.sigmoid((outline - torch.hypot(x / (0.7 + 0.4 * next(take)), y / (0.7 + 0.4 * next(take)))) * 80)
        image = torch.full_like(x, 0.2 + 0.5 * next(take))
        for _ in range(4 + int(18 * next(take))):
            angle, cx, cy = 6.3 * next(take), 1.6 * next(take) - 0.8, 1.6 * next(take) - 0.8
            u = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
            v = (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
            inside = torch.sigmoid((1 - torch.hypot(u / (0.02 + 0.5 * next(take)), v / (0.01 + 0.3 * next(take)))) * 40)
            image = image + (1.4 * next(take) - 0.7) * inside
        if next(take) < 0.6:
            white = torch.randn(SIDE, SIDE, dtype=torch.complex64, generator=generator)
            frequency = torch.hypot(*torch.meshgrid(torch.fft.fftfreq(SIDE), torch.fft.fftfreq(SIDE), indexing="ij"))
            noise = torch.fft.ifft2(white / (frequency + 0.004) ** (1 + next(take))).real
            image = image * (1 + (0.05 + 0.25 * next(take)) * noise / noise.std())
        if next(take) < 0.3:
            wave = torch.sin(
                (20 + 200 * next(take)) * (x * math.cos(6.3 * next(take)) + y * math.sin(6.3 * next(take)))
            )
            image = image * (1 + 0.2 * next(take) * wave)
        image = image.clamp(min=0) * body
        images.append(image / image.max().clamp(min=1e-6))
    return torch.stack(images)


def public_images(seed: int, crops: int = 14) -> Tensor:
    """``(n, 320, 320)`` of peak 1: crops of photographs and textures that come with scikit-image, and random patterns.

    Most are cut out by an ellipse, as a body has an outline; without scikit-image there are patterns alone.
    """
    try:
        from skimage import data
    except ImportError:
        return random_patterns(40, seed)
    chance = random.Random(mixed_seed(seed, "public images"))
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    images = []
    for name in PUBLIC:
        photograph = torch.from_numpy(np.asarray(getattr(data, name)(), dtype=np.float32))
        photograph = photograph[..., :3].mean(-1) if photograph.ndim == 3 else photograph
        photograph = (photograph - photograph.min()) / (photograph.max() - photograph.min())
        for _ in range(crops):
            size = min(*photograph.shape, round(SIDE * chance.uniform(0.7, 1.6)))
            top, left = (chance.randrange(length - size + 1) for length in photograph.shape)
            part = photograph[top : top + size, left : left + size]
            crop = functional.interpolate(part[None, None], (SIDE, SIDE), mode="bicubic", antialias=True)[0, 0]
            crop = crop.clamp(0, 1) if chance.random() < 0.5 else 1 - crop.clamp(0, 1)
            if chance.random() < 0.75:
                reach = torch.hypot(y / chance.uniform(0.6, 1.1), x / chance.uniform(0.6, 1.1))
                crop = crop * torch.sigmoid((1 - reach) * 60)
            images.append(crop / crop.max().clamp(min=1e-3))
    return torch.cat((torch.stack(images), random_patterns(40, seed)))


class Simulators:
    """Processes that simulate patients without end, each on one core; what they made is taken when there is time.

    Parameters
    ----------
    processes
        How many.
    seed
        Of all patients.
    """

    def __init__(self, processes: int, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._made: Any = context.Queue(maxsize=4 * processes + 4)
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for the children: each would take its share of the GPU's memory
        try:
            self._workers = [
                context.Process(target=_simulate, args=(self._made, mixed_seed(seed, number)), daemon=True)
                for number in range(processes)
            ]
            for worker in self._workers:
                worker.start()
        finally:
            if before is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = before

    @property
    def alive(self) -> int:
        """How many are still at work."""
        return sum(worker.is_alive() for worker in self._workers)

    def take(self, pool: ImagePool, most: int = 4) -> int:
        """Hand over at most so many finished parts; returns the number of slices."""
        slices = 0
        for _ in range(most):
            try:
                kind, magnitude, lesions = self._made.get_nowait()
            except queue.Empty:
                break
            pool.add(kind, torch.from_numpy(magnitude), torch.from_numpy(lesions))
            slices += len(magnitude)
        return slices

    def stop(self) -> None:
        """End them."""
        for worker in self._workers:
            worker.kill()
        self._made.cancel_join_thread()


def _simulate(made: Any, seed: int) -> None:
    from pass_recon.phantom import simulate_slices

    torch.set_num_threads(1)
    part = 0
    while True:
        if part % 10 == 9:
            patterns = random_patterns(8, mixed_seed(seed, part))
            made.put(("other", patterns.numpy().astype(np.float16), np.zeros(patterns.shape, dtype=bool)))
            part += 1
            continue
        kind = KINDS[(part + seed) % 3]
        anatomy, contrast = kind.split("-")
        found = simulate_slices(
            anatomy,
            contrast,
            8,
            (SIDE, SIDE),
            seed=mixed_seed(seed, part) % 2**31,
            lesions=1 + part % 3,
            healthy=0.15,
        )
        made.put((kind, found.image.abs().numpy().astype(np.float16), found.lesion_masks.numpy()))
        part += 1
