"""Slices a second of the simulated patient: 320 × 320, 12 coils, k-space and noise included."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from pass_recon.phantom import simulate_patient, simulate_slices

SLICES = 8


def slices_per_second(simulate: Callable[[int], object], slices: int, repeats: int = 3) -> float:
    """The best of some repeats, after one to warm up."""
    seconds = []
    for seed in range(repeats + 1):
        start = time.perf_counter()
        simulate(seed)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return slices / min(seconds[1:])


def main() -> None:
    """Print slices a second for both anatomies, with coils and without, on each device there is."""
    for device, slices in (("cpu", SLICES), ("cuda", 64)):
        if device == "cuda" and not torch.cuda.is_available():
            continue
        where = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
        for anatomy, contrast in (("brain", "flair"), ("knee", "pd")):

            def patient(seed: int, anatomy=anatomy, contrast=contrast, device=device, slices=slices):
                return simulate_patient(
                    anatomy=anatomy, contrast=contrast, coils=12, slices=slices, seed=seed, device=device
                )

            def images(seed: int, anatomy=anatomy, contrast=contrast, device=device, slices=slices):
                return simulate_slices(anatomy, contrast, slices, seed=seed, device=device)

            for name, simulate in (("12 coils, k-space and noise", patient), ("images and lesions only", images)):
                rate = slices_per_second(simulate, slices)
                print(f"phantom {anatomy} {contrast}, {name}, {where}: {rate:.1f} slices/s")


if __name__ == "__main__":
    main()
