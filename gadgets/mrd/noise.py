"""Noise scans, and whitening by them as Gadgetron's NoiseAdjust does it."""

from __future__ import annotations

from typing import Any

import numpy as np
from ismrmrd.acquisition import Acquisition
from numpy.typing import NDArray

from pass_recon.types import InputError

# Of a Siemens receiver, and Gadgetron's default.
_DEFAULT_BANDWIDTH = 0.793
# Gains of one receiver differ by a factor of ten at most. Whitened by noise a thousand times too quiet, a coil would
# drown all others; a thousand times too loud, it is broken.
_UNLIKE_THE_MEDIAN = 1e3


def noise_bandwidth(header: Any) -> float:
    """The share of the sampled bandwidth that lets noise through, of a parsed MRD header."""
    told = getattr(header.acquisitionSystemInformation, "relativeReceiverNoiseBandwidth", None)
    return _DEFAULT_BANDWIDTH if told is None else float(told)


class NoiseScans:
    """The noise scans of a measurement; false while there are none.

    Better an image with correlated noise than none: what they cannot whiten stays as it is, and ``remarks`` say so. A
    coil that is silent in them, or quieter or louder than the others by orders of magnitude, is switched off: it
    receives nothing, or nobody knows what it receives.

    Parameters
    ----------
    bandwidth
        That of `noise_bandwidth`.

    Attributes
    ----------
    remarks
        What could not be used, and why.
    """

    def __init__(self, bandwidth: float) -> None:
        self.remarks: list[str] = []
        self._bandwidth = bandwidth
        self._scans: list[NDArray[np.complex64]] = []
        self._dwell_us = 0.0
        self._matrices: dict[tuple[int, float], NDArray[np.complex64] | None] = {}

    def __bool__(self) -> bool:
        return bool(self._scans)

    @property
    def coils(self) -> list[int]:
        """The different numbers of coils that they have."""
        return sorted({scan.shape[0] for scan in self._scans})

    def add(self, acquisition: Acquisition) -> None:
        """Keep a noise scan."""
        self._scans.append(acquisition.data)
        self._dwell_us = self._dwell_us or acquisition.sample_time_us

    def whiten(self, line: NDArray[np.complex64], dwell_us: float) -> NDArray[np.complex64]:
        """A line ``(coils, samples)`` with independent coils of unit variance, or as it is where the noise is unknown.

        Parameters
        ----------
        line
            As sampled, before oversampling is removed: the last digits then agree with those of the stock gadgets.
        dwell_us
            Time between its samples.
        """
        if not self._scans:
            return line
        key = line.shape[0], dwell_us
        if key not in self._matrices:
            self._matrices[key] = self._matrix(*key)
        matrix = self._matrices[key]
        # numpy, not torch, whose threads cost more than the work for one line.
        return line if matrix is None else matrix @ line

    def _matrix(self, coils: int, dwell_us: float) -> NDArray[np.complex64] | None:
        import torch  # once there is something to whiten: it takes seconds

        from pass_recon.physics.coils import whitening_matrix

        fitting = [scan for scan in self._scans if scan.shape[0] == coils]
        if not fitting:
            self._say(f"noise scans have {self.coils} coils, the lines {coils}")
            return None
        noise = np.concatenate(fitting, axis=1)
        noise = noise[:, np.isfinite(noise).all(axis=0)]
        if not noise.any():
            self._say("it holds no noise, but zeros, NaN or nothing")
            return None
        levels = np.sqrt(np.square(np.abs(noise), dtype=np.float64).mean(axis=1))
        silent = np.flatnonzero(levels == 0)
        ratios = levels / np.median(levels[levels > 0])
        odd = np.flatnonzero((levels > 0) & ((ratios < 1 / _UNLIKE_THE_MEDIAN) | (ratios > _UNLIKE_THE_MEDIAN)))
        alive = np.setdiff1d(np.arange(coils), (*silent, *odd))
        try:
            matrix = whitening_matrix(
                torch.from_numpy(noise[alive]),
                noise_dwell_us=self._dwell_us,
                dwell_us=dwell_us,
                bandwidth_ratio=self._bandwidth,
            )
        except InputError as error:
            self._say(str(error))
            return None
        if len(silent):
            named = ", ".join(map(str, silent))
            self._remark(f"coil {named} is silent in the noise scan, as a dead one is, and is left out")
        for coil in odd:
            self._remark(
                f"coil {coil} has {ratios[coil]:.2g} times the median noise of the coils in the noise scan, "
                "which cannot be right, and is left out"
            )
        whole = np.zeros((coils, coils), dtype=np.complex64)
        whole[np.ix_(alive, alive)] = matrix.numpy()
        return whole

    def _say(self, reason: str) -> None:
        self._remark(f"the noise scan cannot be used, nothing is whitened: {reason}")

    def _remark(self, sentence: str) -> None:
        if sentence not in self.remarks:
            self.remarks.append(sentence)
