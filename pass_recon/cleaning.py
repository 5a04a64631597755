"""Slices without what is wrong with them: bad coils and lines left out, spikes removed, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pass_recon.preparation import acquired_lines
from pass_recon.quality import Inspection, TrainedFor, inspect
from pass_recon.types import QualityFinding, Reconstruction


@dataclass(frozen=True)
class CleanScan:
    """Slices that are reconstructed together: all of a scan where it is ordinary, otherwise each by itself.

    Attributes
    ----------
    kspace
        ``(slices, coils, ro, pe)``, of the coils that can be used.
    line_mask
        ``(pe,)`` bool, the lines that can be used.
    calibration
        Shaped like ``kspace``, to estimate coil maps from.
    calibration_lines
        ``(pe,)`` bool on the CPU: its lines.
    coil_maps
        Shaped like ``kspace``, where they were known.
    coils
        ``(all coils,)`` bool: which of those that came are in ``kspace``.
    findings
        One tuple a slice.
    empty
        Whether there is no signal.
    """

    kspace: Tensor
    line_mask: Tensor
    calibration: Tensor
    calibration_lines: Tensor
    coil_maps: Tensor | None
    coils: Tensor
    findings: tuple[tuple[QualityFinding, ...], ...]
    empty: bool = False


def clean(
    kspace: Tensor,
    line_mask: Tensor,
    *,
    calibration: Tensor | None = None,
    coil_maps: Tensor | None = None,
    trained: TrainedFor | None = None,
    multiband: int = 1,
) -> list[CleanScan]:
    """Inspect slices, and leave out of each what cannot be used.

    Parameters
    ----------
    kspace, calibration, coil_maps
        ``(slices, coils, ro, pe)``; without a calibration, ``kspace`` is calibrated from.
    line_mask
        ``(pe,)`` bool on the device of the data.
    trained
        What the networks have seen that are to reconstruct it.
    multiband
        Number of slices excited together, where the scan tells.

    Returns
    -------
    list of CleanScan
        In the order of the slices.
    """
    lines = None if calibration is None else acquired_lines(calibration).to(kspace.device)
    data = [inspect(one, line_mask, trained=trained, multiband=multiband) for one in kspace]
    separate = (
        [None] * len(data) if calibration is None or lines is None else [inspect(one, lines) for one in calibration]
    )
    ordinary = not any(
        of is not None and (of.empty or of.changes(one, mask))
        for looks, ones, mask in ((data, kspace, line_mask), (separate, calibration, lines))
        if ones is not None and mask is not None
        for of, one in zip(looks, ones, strict=True)
    )
    findings = tuple(_all_findings(own, other) for own, other in zip(data, separate, strict=True))
    if ordinary:
        source, source_lines = (kspace, line_mask) if calibration is None or lines is None else (calibration, lines)
        every = torch.ones(kspace.shape[1], dtype=torch.bool, device=kspace.device)
        return [CleanScan(kspace, line_mask, source, source_lines.cpu(), coil_maps, every, findings)]
    maps = [None] * len(data) if coil_maps is None else [one[None] for one in coil_maps]
    return [_one(*each) for each in zip(data, separate, maps, findings, strict=True)]


def _one(
    own: Inspection, other: Inspection | None, maps: Tensor | None, findings: tuple[QualityFinding, ...]
) -> CleanScan:
    coils, source, lines = own.coils, own.kspace, own.calibration_lines
    if other is not None and not other.empty:
        both = own.coils & other.coils
        coils = both if bool(both.any()) else own.coils
        source, lines = other.kspace, other.calibration_lines
    maps = None if maps is None else maps[:, coils]
    return CleanScan(
        own.kspace[coils][None], own.lines, source[coils][None], lines.cpu(), maps, coils, (findings,), own.empty
    )


def _all_findings(own: Inspection, other: Inspection | None) -> tuple[QualityFinding, ...]:
    known = {finding.word for finding in own.findings}
    more = () if other is None else tuple(each for each in other.findings if each.word not in known)
    return (*(replace(each, sentence=f"calibration: {each.sentence}") for each in more), *own.findings)


def joined(results: Sequence[Reconstruction], *, one: bool) -> Reconstruction:
    """The results of slices that were worked on apart; ``one`` drops the axis of slices."""
    first = results[0]
    image = torch.cat([each.image for each in results])
    maps = [each.anomaly_map for each in results if each.anomaly_map is not None]
    anomaly_map = torch.cat(maps) if maps else None
    reasons = dict.fromkeys(each.fallback for each in results if each.fallback)
    seconds: dict[str, float] = {}
    for each in results:
        for stage, spent in each.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    intermediates = {
        name: torch.cat([each.intermediates[name] for each in results], 0 if name == "coil_maps" else 1)
        for name in first.intermediates
        if all(name in each.intermediates for each in results)
    }
    return Reconstruction(
        image=image[0] if one else image,
        anomaly_map=anomaly_map[0] if one and anomaly_map is not None else anomaly_map,
        boxes=tuple(boxes for each in results for boxes in each.boxes),
        score=tuple(score for each in results for score in each.score),
        bundle=first.bundle,
        fallback="; ".join(reasons) or None,
        seconds=seconds,
        intermediates=intermediates,
        quality=tuple(findings for each in results for findings in each.quality),
    )
