"""From fastMRI, magnitude volumes and simulated patients to the one form that training and evaluation read."""
