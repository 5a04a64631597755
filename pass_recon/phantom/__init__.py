"""Simulated patients: anatomy, lesions, receiver arrays, phase and noise, all known exactly."""

from pass_recon.phantom.patient import SimulatedPatient, simulate_patient
from pass_recon.phantom.real_images import PaintedLesions, paint_lesions
from pass_recon.phantom.scene import SimulatedSlices, simulate_slices

__all__ = [
    "PaintedLesions",
    "SimulatedPatient",
    "SimulatedSlices",
    "paint_lesions",
    "simulate_patient",
    "simulate_slices",
]
