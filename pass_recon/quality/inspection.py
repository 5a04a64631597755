"""What is wrong with the finite data of one slice, and what of it can be used."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pass_recon.quality.alternation import find_alternation
from pass_recon.quality.coils import check_coils
from pass_recon.quality.consistency import LineConsistency, findings_of
from pass_recon.quality.lines import lines_finding, loud_lines, zero_lines
from pass_recon.quality.neighbours import Neighbours, lines_around_centre
from pass_recon.quality.spikes import find_spikes
from pass_recon.quality.superposition import check_superposition
from pass_recon.quality.training import TrainedFor, check_lines, check_matrix
from pass_recon.sampling.budget import MOST_ACCELERATION, acs_count, acs_fraction
from pass_recon.sampling.lines import acs_mask, calibration_width
from pass_recon.types import QualityFinding

# What a line may lose to spikes before it is the line that is wrong.
_SPIKES_IN_A_LINE = 0.05
_LEAST_LINES = 4
_ENOUGH = 10
# Magnitudes whose squares, sums and ridges stay inside single precision; others are seen relative to the largest.
_SQUARES_FIT = (1e-9, 1e12)


@dataclass(frozen=True)
class Inspection:
    """Findings of one slice, and the data without what is wrong.

    Attributes
    ----------
    findings
        What was seen; empty for ordinary data.
    coils
        ``(coils,)`` bool: those to use.
    lines
        ``(pe,)`` bool: those to use.
    calibration_lines
        ``(pe,)`` bool: ``lines``, and those around the centre that their neighbours predict, good enough to estimate
        coil maps from and not to reconstruct from.
    kspace
        ``(coils, ro, pe)`` with spikes and the lines just named replaced by what their neighbours predict, and zero
        where other lines are left out; the very tensor that was given where nothing was replaced.
    """

    findings: tuple[QualityFinding, ...]
    coils: Tensor
    lines: Tensor
    calibration_lines: Tensor
    kspace: Tensor

    @property
    def empty(self) -> bool:
        """Whether the scan holds no signal at all."""
        return any(finding.word == "empty" for finding in self.findings)

    def changes(self, kspace: Tensor, line_mask: Tensor) -> bool:
        """Whether anything of what was given is left out or replaced."""
        return self.kspace is not kspace or not bool(self.coils.all()) or not torch.equal(self.lines, line_mask)


@torch.no_grad()
def inspect(
    kspace: Tensor,
    line_mask: Tensor,
    *,
    trained: TrainedFor | None = None,
    multiband: int = 1,
    brief: bool = False,
) -> Inspection:
    """Look for what is wrong with one slice.

    It takes tens of milliseconds for 16 coils and 320 × 320, and no coil maps. What only a reconstruction can tell,
    `check_lines` tells.

    Parameters
    ----------
    kspace
        ``(coils, ro, pe)`` complex, in any unit, whitened or not.
    line_mask
        ``(pe,)`` bool: the acquired lines; what the others hold is ignored.
    trained
        What the networks have seen that are to reconstruct it; None if there are none.
    multiband
        Number of slices excited together, where the scan tells.
    brief
        Only for coils and single lines not to be used, which takes half the time: not for lines that all go together
        badly, as after motion, of echoes read to and fro, or of slices on top of each other.

    Returns
    -------
    Inspection
        On the device of the data.
    """
    acquired = line_mask.to(kspace.device).nonzero().flatten()
    samples = kspace.index_select(-1, acquired)
    peak = float(torch.view_as_real(samples).abs().max()) if len(acquired) else 0.0
    if peak > 0 and not _SQUARES_FIT[0] < peak < _SQUARES_FIT[1]:
        scaled = (kspace.to(torch.complex128) / peak).to(kspace.dtype)
        found = inspect(scaled, line_mask, trained=trained, multiband=multiband, brief=brief)
        back = kspace if found.kspace is scaled else (found.kspace.to(torch.complex128) * peak).to(kspace.dtype)
        return replace(found, kspace=back)
    mask = line_mask.to(kspace.device)
    indices = acquired
    shape = (kspace.shape[1], kspace.shape[2])
    findings = [] if trained is None else check_matrix(shape, trained) + check_lines(mask, trained)
    everything = torch.ones(kspace.shape[0], dtype=torch.bool, device=kspace.device)
    if not len(indices):
        findings.append(QualityFinding("empty", "no line was acquired"))
        return Inspection(tuple(findings), everything, mask, mask, kspace)
    coils, about_coils = check_coils(samples)
    if any(finding.word == "empty" for finding in about_coils):
        return Inspection((*findings, *about_coils), coils, mask, mask, kspace)
    findings += about_coils
    coils, bad, about_lines = _zeros(samples, indices, coils, mask)
    findings += about_lines
    kspace, bad, about_spikes = _spikes(kspace, samples, indices, coils, bad)
    findings += about_spikes
    lines, calibration, kspace, about_lines, explained = _inconsistent(kspace, mask, coils, bad, brief=brief)
    findings += about_lines
    if multiband > 1:
        findings.append(QualityFinding("multiband", f"{multiband} slices were excited together"))
    elif explained and not brief:  # of lines that do not go together no set of coil maps can be expected
        findings += check_superposition(_of(kspace, coils), calibration)
    return Inspection(tuple(findings), coils, lines, calibration, kspace)


def _zeros(
    samples: Tensor, indices: Tensor, coils: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, list[QualityFinding]]:
    """Coils to use, lines ``(pe,)`` that hold zeros, and what to say of both."""
    zeros = zero_lines(samples)
    silent = coils & (zeros.float().mean(1) > 0.5)
    findings = []
    if bool(silent.any()) and not torch.equal(silent, coils):
        named = ", ".join(map(str, silent.nonzero().flatten().tolist()))
        findings.append(QualityFinding("dead_coil", f"coil {named} holds zeros on most lines, left out"))
        coils = coils & ~silent
    bad = torch.zeros_like(mask)
    bad[indices[zeros[coils].any(0)]] = True
    if int(mask.sum() - bad.sum()) < _LEAST_LINES:
        bad[:] = False
    if bool(bad.any()):
        findings.append(lines_finding("zero_lines", bad.nonzero().flatten().tolist(), "with samples of zero, left out"))
    return coils, bad, findings


def _spikes(
    kspace: Tensor, samples: Tensor, indices: Tensor, coils: Tensor, bad: Tensor
) -> tuple[Tensor, Tensor, list[QualityFinding]]:
    """K-space without spikes, the lines ``(pe,)`` that are bad, and what to say."""
    sound = ~bad[indices]
    pe = kspace.shape[-1]
    used = coils.nonzero().flatten()
    spikes, clean = find_spikes(_of(samples, coils)[..., sound], indices[sound], pe // 2)
    if not bool(spikes.any()):
        return kspace, bad, []
    many = spikes.any(0).float().mean(0) > _SPIKES_IN_A_LINE
    findings = []
    if bool(many.any()):
        bad = bad.clone()
        bad[indices[sound][many]] = True
        numbers = indices[sound][many].tolist()
        findings.append(lines_finding("inconsistent_lines", numbers, "full of spikes, left out"))
    kspace = kspace.clone()
    kspace[used[:, None], :, indices[sound][None]] = clean.movedim(-1, 1)
    single = spikes & ~many
    if bool(single.any()):
        findings.append(_spikes_finding(single, clean, _of(samples, coils)[..., sound], indices[sound], used))
    return kspace, bad, findings


def _of(kspace: Tensor, coils: Tensor) -> Tensor:
    """The coils to use; no copy where these are all."""
    return kspace if bool(coils.all()) else kspace[coils]


def _spikes_finding(spikes: Tensor, clean: Tensor, samples: Tensor, lines: Tensor, coils: Tensor) -> QualityFinding:
    places = spikes.nonzero()
    told = [
        f"coil {int(coils[coil])} line {int(lines[line])} sample {readout} (magnitude "
        f"{float(samples[coil, readout, line].abs()):.3g} where {float(clean[coil, readout, line].abs()):.3g} fits)"
        for coil, readout, line in places[:4].tolist()
    ]
    more = f" and {len(places) - 4} more" if len(places) > 4 else ""
    return QualityFinding("spike", f"spike{'s' if len(places) > 1 else ''} at {', '.join(told)}{more}, removed")


def _inconsistent(
    kspace: Tensor, mask: Tensor, coils: Tensor, bad: Tensor, *, brief: bool
) -> tuple[Tensor, Tensor, Tensor, list[QualityFinding], bool]:
    """Lines to use, lines to calibrate from, k-space with what was mended, what to say, whether all is explained."""
    bad = bad.clone()
    indices = (mask & ~bad).nonzero().flatten()
    loud = indices[loud_lines(_of(kspace, coils)[..., indices], indices, mask)].tolist()
    bad[loud] = True
    findings: list[QualityFinding] = []
    found = LineConsistency(_of(kspace, coils), mask).explain(bad, alternating=not brief, broken=not brief)
    if found.alternating:
        kspace, findings = _without_alternation(kspace, mask & ~bad, coils)
        found = LineConsistency(_of(kspace, coils), mask).explain(bad, alternating=False)
    findings += findings_of(found, loud)
    explained = not (found.unexplained or found.broken_at)
    if not explained:  # no few lines are to blame, and none is left out
        bad[loud] = False
    bad[found.wrong if explained else []] = True
    for first, second in found.exchanged if explained else []:
        kspace = kspace.clone()
        kspace[..., [first, second]] = kspace[..., [second, first]]
    lines, calibration, kspace, about_holes = _filled(kspace, mask, coils, bad)
    return lines, calibration, kspace, findings + about_holes, explained


def _without_alternation(kspace: Tensor, mask: Tensor, coils: Tensor) -> tuple[Tensor, list[QualityFinding]]:
    """K-space with lines of odd number as they should have been, if they were read in another way, and what to say."""
    found = find_alternation(_of(kspace, coils), mask)
    if found is None:
        return kspace, []
    odd = mask & (torch.arange(len(mask), device=mask.device) % 2 == 1)
    kspace = kspace.clone()
    kspace[..., odd] = found.undo(kspace[..., odd])
    return kspace, [QualityFinding("inconsistent_lines", f"{found.sentence}: corrected")]


def _filled(
    kspace: Tensor, mask: Tensor, coils: Tensor, bad: Tensor
) -> tuple[Tensor, Tensor, Tensor, list[QualityFinding]]:
    """Lines to use, lines to calibrate from, k-space in which its neighbours stand for a line around the centre that is
    bad or did not come, and what to say of those that did not.
    """
    lines = mask & ~bad
    # Plans leave gaps beside their ACS, but none in the middle of the smallest. Enough lines around the centre will do.
    least = acs_mask(len(mask), max(3, acs_count(len(mask), acs_fraction(MOST_ACCELERATION)))).to(mask.device)
    near = acs_mask(len(mask), min(_ENOUGH, len(mask))).to(mask.device)
    wanted = bad & mask if calibration_width(lines) >= _ENOUGH else near | bad
    holes = lines_around_centre(lines) & ~lines & wanted
    if not bool(bad.any() | holes.any()):
        return lines, lines, kspace, []
    kspace = kspace.clone()
    kspace[..., bad] = 0
    calibration = lines.clone()
    if bool(holes.any()):
        usable = _of(kspace, coils)
        predicted = Neighbours(usable, lines).predict(usable, holes.nonzero().flatten().tolist(), lines)
        for line, values in predicted.items():
            kspace[coils, :, line] = values
            calibration[line] = True
    missing = (holes & ~mask & least).nonzero().flatten().tolist()
    what = "did not come, though those around did: coil maps are made with what their neighbours predict"
    return lines, calibration, kspace, [lines_finding("missing_lines", missing, what)] if missing else []
