"""Noise scans, and whitening by them as Gadgetron's NoiseAdjust does it."""

from __future__ import annotations

from typing import Any

import numpy as np
from ismrmrd.acquisition import Acquisition
from numpy.typing import NDArray

from pass_recon.types import InputError

# Of a Siemens receiver, and Gadgetron's default.
_DEFAULT_BANDWIDTH = 0.793


def noise_bandwidth(header: Any) -> float:
    """The share of the sampled bandwidth that lets noise through, of a parsed MRD header."""
    told = getattr(header.acquisitionSystemInformation, "relativeReceiverNoiseBandwidth", None)
    return _DEFAULT_BANDWIDTH if told is None else float(told)


class NoiseScans:
    """The noise scans of a measurement; false while there are none.

    Parameters
    ----------
    bandwidth
        That of `noise_bandwidth`.
    """

    def __init__(self, bandwidth: float) -> None:
        self._bandwidth = bandwidth
        self._scans: list[NDArray[np.complex64]] = []
        self._dwell_us = 0.0
        self._matrices: dict[float, NDArray[np.complex64]] = {}

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

    def clear(self) -> None:
        """Forget them."""
        self._scans.clear()

    def whiten(self, line: NDArray[np.complex64], dwell_us: float) -> NDArray[np.complex64]:
        """A line ``(coils, samples)`` with independent coils of unit variance.

        Parameters
        ----------
        line
            As sampled, before oversampling is removed: the last digits then agree with those of the stock gadgets.
        dwell_us
            Time between its samples.

        Raises
        ------
        InputError
            If the noise has another number of coils or does not determine the matrix.
        """
        if dwell_us not in self._matrices:
            self._matrices[dwell_us] = self._matrix(line.shape[0], dwell_us)
        # numpy, not torch, whose threads cost more than the work for one line.
        return self._matrices[dwell_us] @ line

    def _matrix(self, coils: int, dwell_us: float) -> NDArray[np.complex64]:
        import torch  # once there is something to whiten: it takes seconds

        from pass_recon.physics.coils import whitening_matrix

        if self.coils != [coils]:
            raise InputError(f"noise scans have {self.coils} coils, the lines {coils}")
        matrix = whitening_matrix(
            torch.from_numpy(np.concatenate(self._scans, axis=1)),
            noise_dwell_us=self._dwell_us,
            dwell_us=dwell_us,
            bandwidth_ratio=self._bandwidth,
        )
        return matrix.numpy()
