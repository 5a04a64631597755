"""Small simulated scans for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from gadgets.converters.patient_file import write_patient
from gadgets.mrd.dataset import dataset
from pass_recon.phantom import simulate_patient

SMALL: dict[str, Any] = {"anatomy": "brain", "contrast": "flair", "coils": 4, "slices": 3, "shape": (48, 64)}


def patient_file(path: Path, **changes: Any) -> Path:
    """Write a small simulated patient."""
    write_patient(path, simulate_patient(**(SMALL | changes)))
    return path


def write_scan(path: Path, kspace: NDArray[np.complex64], *, oversampling: int = 1) -> Path:
    """Write k-space ``(slices, coils, ro, pe)`` as the plainest MRD file there can be, with the library's own writer.

    Readout oversampling, if any, is in the k-space already. No noise scan, no flags but the ends of slices.
    """
    slices, _, ro, pe = kspace.shape
    space = (
        "<matrixSize><x>{}</x><y>{}</y><z>1</z></matrixSize><fieldOfView_mm><x>{}</x><y>{}</y><z>5</z></fieldOfView_mm>"
    )
    header = f"""<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions>
<encoding>
<encodedSpace>{space.format(ro, pe, ro, pe)}</encodedSpace>
<reconSpace>{space.format(ro // oversampling, pe, ro / oversampling, pe)}</reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{pe - 1}</maximum><center>{pe // 2}</center>
</kspace_encoding_step_1></encodingLimits>
<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""
    acquisitions = []
    for index in range(slices):
        for line in range(pe):
            acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(kspace[index, :, :, line]))
            acquisition.idx.kspace_encode_step_1, acquisition.idx.slice = line, index
            acquisition.center_sample, acquisition.sample_time_us = ro // 2, 5.0
            if line == pe - 1:
                acquisition.setFlag(ismrmrd.ACQ_LAST_IN_SLICE)
            acquisitions.append(acquisition)
    with ismrmrd.File(str(path), "w") as file:
        file["dataset"].acquisitions = acquisitions
    with dataset(path, "dataset", "a") as file:
        file.write_xml_header(header.encode())
    return path
