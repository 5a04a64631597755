"""Gadgets of the Gadgetron by their names, done in Python: what happens to acquisitions before a chain of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ismrmrd import Acquisition, AcquisitionHeader
from numpy.typing import NDArray

from gadgets.mrd import is_noise, remove_oversampling
from gadgets.mrd.noise import NoiseScans, noise_bandwidth
from gadgets.server.nodes import StockGadget
from pass_recon.types import InputError


def _with_data(acquisition: Acquisition, data: NDArray[np.complex64], **changes: int) -> Acquisition:
    """The acquisition with other samples, and without its trajectory where the number of samples has changed."""
    header = AcquisitionHeader.from_buffer_copy(acquisition.getHead())
    trajectory = acquisition.traj
    if data.shape[1] != header.number_of_samples:
        header.number_of_samples = data.shape[1]
        header.trajectory_dimensions, trajectory = 0, None
    for name, value in changes.items():
        setattr(header, name, value)
    return Acquisition(header, np.ascontiguousarray(data), trajectory)


def _flag(properties: Mapping[str, str], name: str, default: bool) -> bool:
    value = properties.get(name, str(default)).lower()
    if value not in ("true", "false", "1", "0"):
        raise InputError(f"property {name} must be true or false, got {value!r}")
    return value in ("true", "1")


class NoiseAdjust:
    """Takes noise scans out of the stream and whitens the rest, coils of unit variance.

    As the original does, the matrix is made at the first acquisition that is no noise scan, with its dwell time; noise
    scans that come later are dropped, and acquisitions with another number of coils pass unchanged.
    """

    def __init__(self, header: Any, properties: Mapping[str, str]) -> None:
        if properties.get("scale_only_channels_by_name"):
            raise InputError("property scale_only_channels_by_name is not supported by the embedded server")
        self._adjusts = _flag(properties, "perform_noise_adjust", True)
        self._passes_others = _flag(properties, "pass_nonconformant_data", True)
        self._noise = NoiseScans(noise_bandwidth(header))
        self._dwell_us: float | None = None  # of the first acquisition; from then on noise scans are dropped

    @property
    def remarks(self) -> Sequence[str]:
        """Why noise scans could not be used, and which coils are dead."""
        return self._noise.remarks

    def process(self, acquisition: Acquisition) -> Iterator[Acquisition]:
        """Whiten."""
        if is_noise(acquisition):
            self._add_noise(acquisition)
        elif not self._noise:
            yield acquisition
        else:
            self._dwell_us = acquisition.sample_time_us if self._dwell_us is None else self._dwell_us
            yield self._whiten(acquisition, self._dwell_us)

    def _add_noise(self, acquisition: Acquisition) -> None:
        if not self._adjusts or self._dwell_us is not None:
            return
        self._noise.add(acquisition)

    def _whiten(self, acquisition: Acquisition, dwell_us: float) -> Acquisition:
        coils = self._noise.coils
        if acquisition.active_channels not in coils and not self._passes_others:
            had = ", ".join(map(str, coils))
            raise InputError(f"an acquisition has {acquisition.active_channels} coils, the noise scan had {had}")
        data = acquisition.data
        whitened = self._noise.whiten(data, dwell_us)
        return acquisition if whitened is data else _with_data(acquisition, whitened)


class RemoveROOversampling:
    """Crops the field of view along readout to that of the reconstruction.

    Odd sizes keep the centre at ``n // 2``, where the original is one pixel off.
    """

    remarks: Sequence[str] = ()

    def __init__(self, header: Any, properties: Mapping[str, str]) -> None:
        if not header.encoding:
            raise InputError("the header describes no encoding")
        fov = (getattr(header.encoding[0], space).fieldOfView_mm.x for space in ("encodedSpace", "reconSpace"))
        encoded, recon = map(np.float32, fov)
        self._ratio = encoded / recon if recon > 0 else np.float32(1)

    def process(self, acquisition: Acquisition) -> Iterator[Acquisition]:
        """Crop."""
        samples = int(acquisition.number_of_samples / self._ratio)
        if self._ratio <= 1 or samples < 1:
            yield acquisition
            return
        data = remove_oversampling(acquisition.data, samples)
        fields = ("center_sample", "discard_pre", "discard_post")
        yield _with_data(acquisition, data, **{name: int(getattr(acquisition, name) / self._ratio) for name in fields})


class AsymmetricEchoAdjustRO:
    """Zeros on the short side of an asymmetric echo, so that its centre is the centre of the encoded readout."""

    remarks: Sequence[str] = ()

    def __init__(self, header: Any, properties: Mapping[str, str]) -> None:
        self._readout = [encoding.encodedSpace.matrixSize.x for encoding in header.encoding]

    def process(self, acquisition: Acquisition) -> Iterator[Acquisition]:
        """Pad."""
        samples, centre, space = (
            acquisition.number_of_samples,
            acquisition.center_sample,
            acquisition.encoding_space_ref,
        )
        missing = self._readout[space] - samples if space < len(self._readout) else 0
        if is_noise(acquisition) or 2 * centre == samples or centre >= samples or missing <= 0:
            yield acquisition
            return
        before, after = (missing, 0) if 2 * centre < samples else (0, missing)
        data = np.pad(acquisition.data, ((0, 0), (before, after)))
        changes = {"center_sample": data.shape[1] // 2, "discard_pre": before, "discard_post": after}
        yield _with_data(acquisition, data, **changes)


STOCK_GADGETS: dict[str, Callable[[Any, Mapping[str, str]], StockGadget]] = {
    "NoiseAdjustGadget": NoiseAdjust,
    "RemoveROOversamplingGadget": RemoveROOversampling,
    "AsymmetricEchoAdjustROGadget": AsymmetricEchoAdjustRO,
}
