"""Small simulated scans for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gadgets.patient_file import write_patient
from pass_recon.phantom import simulate_patient

SMALL: dict[str, Any] = {"anatomy": "brain", "contrast": "flair", "coils": 4, "slices": 3, "shape": (48, 64)}


def patient_file(path: Path, **changes: Any) -> Path:
    """Write a small simulated patient."""
    write_patient(path, simulate_patient(**(SMALL | changes)))
    return path
