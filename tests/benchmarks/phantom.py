"""Slices a second of the simulated patient: 320 × 320, 12 coils, k-space and noise included."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from pass_recon.phantom import simulate_patient, simulate_slices

SLICES = 8


def best_seconds(simulate: Callable[[int], object], repeats: int = 3) -> tuple[float, float]:
    """Least wall-clock and processor seconds of some repeats, after one to warm up."""
    wall, busy = [], []
    for seed in range(repeats + 1):
        start, start_busy = time.perf_counter(), time.process_time()
        simulate(seed)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        wall.append(time.perf_counter() - start)
        busy.append(time.process_time() - start_busy)
    return min(wall[1:]), min(busy[1:])


def report(device: str, slices: int) -> None:
    """Print both anatomies, with coils and without.

    The processor seconds tell what the machine could do where other processes slow the clock's.
    """
    where = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
    for anatomy, contrast in (("brain", "flair"), ("knee", "pd")):

        def patient(seed: int, anatomy=anatomy, contrast=contrast):
            return simulate_patient(
                anatomy=anatomy, contrast=contrast, coils=12, slices=slices, seed=seed, device=device
            )

        def images(seed: int, anatomy=anatomy, contrast=contrast):
            return simulate_slices(anatomy, contrast, slices, seed=seed, device=device)

        for name, simulate in (("12 coils, k-space and noise", patient), ("images and lesions only", images)):
            wall, busy = best_seconds(simulate)
            print(
                f"phantom {anatomy} {contrast}, {name}, {where}: {slices / wall:.1f} slices/s, "
                f"{1000.0 * busy / slices:.0f} ms of processor a slice"
            )


def main() -> None:
    """Measure on one core, on all, and on a GPU where there is one."""
    threads = torch.get_num_threads()
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        report("cpu", SLICES)
    if torch.cuda.is_available():
        report("cuda", 64)


if __name__ == "__main__":
    main()
