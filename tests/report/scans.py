"""Records of scans that never were."""

from __future__ import annotations

import numpy as np

from pass_recon.report.scan import Geometry, PlanRecord, Protocol, RoundRecord, ScanRecord, SliceRecord, Subject
from pass_recon.types import Box

RO, PE = 96, 120
HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">\'&'
ACS = range(56, 64)


def geometry(number: int = 0, slices: int = 3) -> Geometry:
    """Oblique, with pixels of 2 by 1.5 mm and slices 6 mm apart."""
    read, phase = np.array([0.96, 0.0, 0.28]), np.array([0.0, 1.0, 0.0])
    normal = np.cross(read, phase)
    centre = np.array([10.0, -20.0, 30.0]) + 6.0 * (number - (slices - 1) / 2) * normal

    def vector(values: np.ndarray) -> tuple[float, float, float]:
        x, y, z = (float(value) for value in values)
        return x, y, z

    return Geometry(vector(centre), vector(read), vector(phase), vector(normal), (2.0 * RO, 1.5 * PE, 5.0))


def slice_record(number: int = 0, slices: int = 3, **changes: object) -> SliceRecord:
    """A bright square on noise; every slice has a map and one finding."""
    rng = np.random.default_rng(number)
    levels = (1000 + 50 * rng.standard_normal((RO, PE))).clip(0).astype(np.uint16)
    box = Box(20 + number % 40, 30, 16, 24, score=0.9 - number % 7 / 10, label="Edema")
    anomaly_map = np.full((RO, PE), 0.01, dtype=np.float32)
    inside = np.s_[box.readout : box.readout + box.readout_size, box.phase : box.phase + box.phase_size]
    levels[inside], anomaly_map[inside] = 3000, box.score
    lines = (*ACS, *range(2, 56, 6), *range(64, 118, 6))
    plan = PlanRecord(1, lines, PE, ACS, "personal", "brain-flair-4x", 4.0, 0.4)
    given: dict[str, object] = {
        "key": (number, 0, 0, 0, 0),
        "levels": levels,
        "scale": 10.0,
        "window": 4000,
        "geometry": geometry(number, slices),
        "method": "brain-flair-4x",
        "anomaly_map": anomaly_map,
        "findings": (box,),
        "score": box.score,
        "plans": (plan,),
        "rounds": (RoundRecord(1, f"{len(lines)} of {PE}", box.score, 1),),
        "seconds": {"look at the ACS": 0.1, "choose the lines": 0.01, "solve for the image": 0.5},
    }
    return SliceRecord(**(given | changes))  # type: ignore[arg-type]


def scan_record(count: int = 3, **changes: object) -> ScanRecord:
    """A scan of such slices, of a patient with a name."""
    given: dict[str, object] = {
        "slices": tuple(slice_record(number, count) for number in range(count)),
        "protocol": Protocol(
            name="brain_flair", vendor="simulated", field_strength_t=3.0, frequency_hz=123.2e6, coils=8,
            patient_position="HFS", examination="brain-flair", repetition_time=9000.0, echo_times=(90.0,),
        ),
        "subject": Subject(name="Doe^Jane", identifier="4711", birth_date="19700102", sex="F", study_date="20250131"),
        "header": b"<ismrmrdHeader/>",
        "source": {"file": "out.h5"},
    }  # fmt: skip
    return ScanRecord(**(given | changes))  # type: ignore[arg-type]
