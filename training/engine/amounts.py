"""Amounts for people."""

from __future__ import annotations


def gigabytes(count: float) -> str:
    """Bytes as ``1.2 GB``, smaller ones as ``34 MB``."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
