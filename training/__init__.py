"""Data in one form, and the training and evaluation that read it."""
