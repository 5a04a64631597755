"""Simulated patients: anatomy, lesions, receiver arrays, phase and noise, all known exactly."""

from pass_recon.phantom.patient import SimulatedPatient, simulate_patient

__all__ = ["SimulatedPatient", "simulate_patient"]
