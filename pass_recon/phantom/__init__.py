"""Simulated patients: anatomy, lesions, receiver arrays, phase and noise, all known exactly."""

from pass_recon.phantom.coils import coil_maps_from_kspace
from pass_recon.phantom.patient import SimulatedPatient, simulate_patient
from pass_recon.phantom.real_images import PaintedLesions, paint_lesions
from pass_recon.phantom.scene import SimulatedSlices, simulate_slices

__all__ = [
    "PaintedLesions",
    "SimulatedPatient",
    "SimulatedSlices",
    "coil_maps_from_kspace",
    "paint_lesions",
    "simulate_patient",
    "simulate_slices",
]
