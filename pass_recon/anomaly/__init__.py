"""NetAD, the vision-language anomaly detector, and what is made of its map."""

from __future__ import annotations

from pass_recon.anomaly.backbone import Backbone
from pass_recon.anomaly.configuration import SMALL_BACKBONE, BackboneConfiguration, NetADConfiguration
from pass_recon.anomaly.lesions import ImageFindings, describe, find_boxes
from pass_recon.anomaly.netad import AnomalyLogits, AnomalyResult, NetAD

__all__ = [
    "SMALL_BACKBONE",
    "AnomalyLogits",
    "AnomalyResult",
    "Backbone",
    "BackboneConfiguration",
    "ImageFindings",
    "NetAD",
    "NetADConfiguration",
    "describe",
    "find_boxes",
]
