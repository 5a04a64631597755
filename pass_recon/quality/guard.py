"""Images held against lines that they were not made from: what a network invents does not predict these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pass_recon.physics.encoding import SenseOperator
from pass_recon.physics.noise import noise_level
from pass_recon.quality.lines import lines_finding
from pass_recon.sampling.lines import calibration_lines
from pass_recon.types import Box, QualityFinding

GUARDS = ("off", "warn", "replace")
_OF_NETWORK = {"network_worse_than_classical", "finding_not_in_data"}

# The lines left out are few, so that what is judged is nearly the image that is sent, and from the inner half of those
# outside the ACS, where there is more than noise.
_SHARE = 6
_FEWEST, _MOST = 2, 8
_WORSE = 1.5
_WORSE_BY = 0.1
# Of 57 slices of heads and knees, whatever the lines, at most 0.84 of the energy of what was left out was missed; of
# photographs in the place of anatomy half of the time more than 1.8, which is worse than to predict nothing.
_AS_NOTHING = 1.0
# What an image leaves of the lines that it was made from, in noise: where CG-SENSE's left hardly more than the noise,
# networks on lines like those of their training left at most 1.35 times as much, on others up to 1.64 times.
_EXPLAINED = 1.3
_LEFT = 1.4
_LEFT_MORE = 0.4
# Of ordinary slices CG-SENSE missed at most 0.03 of the energy of a line that stood above the noise.
_NOISES = 4.0
_MISSED = 0.1
_SAME_STRUCTURE = 0.5
_AROUND_A_BOX = 4


@dataclass(frozen=True)
class Verdict:
    """What the guard says of each slice.

    Attributes
    ----------
    findings
        One tuple a slice.
    replaced
        ``(slices,)`` bool: where the classical image is the better one.
    """

    findings: tuple[tuple[QualityFinding, ...], ...]
    replaced: Tensor

    @property
    def reason(self) -> str:
        """Why images are replaced."""
        told = (each.sentence for findings in self.findings for each in findings if each.word in _OF_NETWORK)
        return "; ".join(dict.fromkeys(told))


def judge(
    kspace: Tensor,
    coil_maps: Tensor,
    line_mask: Tensor,
    *,
    network: Callable[[Tensor], Tensor],
    classical: Callable[[Tensor], Tensor],
    image: Tensor,
    boxes: tuple[tuple[Box, ...], ...] = (),
) -> Verdict:
    """Hold images against lines that are left out, and findings against the classical image.

    Parameters
    ----------
    kspace, coil_maps
        ``(slices, coils, ro, pe)``.
    line_mask
        ``(pe,)`` bool.
    network, classical
        Lines ``(pe,)`` to images ``(slices, ro, pe)`` of them.
    image
        ``(slices, ro, pe)``: the network's image of all lines.
    boxes
        Findings in it, one tuple a slice.
    """
    held = held_out_lines(line_mask)
    findings: list[list[QualityFinding]] = [[] for _ in image]
    replaced = torch.zeros(len(image), dtype=torch.bool, device=image.device)
    if bool(held.any()):
        without = line_mask & ~held
        solved = classical(without)
        tries = (network(without), solved, torch.zeros_like(solved))
        errors = torch.stack([prediction_error(each, kspace, coil_maps, held) for each in tries])
        findings = [
            worse or nothing for worse, nothing in zip(network_worse(*errors), nothing_predicted(*errors), strict=True)
        ]
        for found, lines in zip(findings, inconsistent_lines(solved, kspace, coil_maps, without), strict=True):
            if lines:
                found.append(lines_finding("inconsistent_lines", lines, "not fitting the image of all lines"))
    shown = classical(line_mask)
    left = [residual(each, kspace, coil_maps, line_mask) for each in (image, shown)]
    for found, more in zip(findings, leaves_more(*left), strict=True):
        found += [] if any(each.word == "network_worse_than_classical" for each in found) else more
    for index, of_slice in enumerate(boxes):
        findings[index] += unsupported_boxes(image[index], shown[index], of_slice)
    for index, found in enumerate(findings):
        replaced[index] = any(each.word in _OF_NETWORK for each in found)
    return Verdict(tuple(map(tuple, findings)), replaced)


def inconsistent_lines(image: Tensor, kspace: Tensor, coil_maps: Tensor, line_mask: Tensor) -> list[list[int]]:
    """Lines of each slice that the CG-SENSE image of all does not reproduce.

    An isolated line fits itself, whatever it holds: where every fourth line or fewer were acquired, only noise among
    them is seen, not a line in the place of another.
    """
    apart = SenseOperator(coil_maps, line_mask).forward(image) - kspace * line_mask
    missed = apart.abs().square().sum((-3, -2))
    energy = (kspace * line_mask).abs().square().sum((-3, -2))
    noise = noise_level(kspace, line_mask)[..., 0, 0].square() * kspace.shape[-3] * kspace.shape[-2]
    bad = (missed > _NOISES * noise[:, None]) & (missed > _MISSED * energy)
    return [one.nonzero().flatten().tolist() for one in bad & line_mask]


def held_out_lines(line_mask: Tensor) -> Tensor:
    """``(pe,)`` bool: the lines of ``line_mask`` ``(pe,)`` to leave out; none if too few lie outside the ACS."""
    outer = (line_mask & ~calibration_lines(line_mask)).nonzero().flatten()
    held = torch.zeros_like(line_mask)
    if len(outer) < 2 * _FEWEST:
        return held
    count = min(_MOST, max(_FEWEST, len(outer) // _SHARE))
    inner = outer[(outer - len(line_mask) // 2).abs().argsort(stable=True)]
    inner = inner[: max(3 * count, 2 * len(outer) // 3)]
    held[inner[torch.linspace(1, len(inner) - 1, count).round().long().to(inner.device)]] = True
    return held


def prediction_error(image: Tensor, kspace: Tensor, coil_maps: Tensor, held: Tensor) -> Tensor:
    """``(slices,)``: ‖M (F S x − k)‖² over the lines that were left out.

    Parameters
    ----------
    image
        ``(slices, ro, pe)``, made without those lines.
    kspace, coil_maps
        ``(slices, coils, ro, pe)``.
    held
        ``(pe,)`` bool.
    """
    apart = SenseOperator(coil_maps, held).forward(image) - kspace * held
    return apart.abs().square().sum((-3, -2, -1))


def network_worse(network: Tensor, classical: Tensor, measured: Tensor) -> list[list[QualityFinding]]:
    """``network_worse_than_classical`` for each slice.

    Parameters
    ----------
    network, classical
        ``(slices,)``: `prediction_error` of both.
    measured
        ``(slices,)``: energy of the lines that were predicted.
    """
    findings: list[list[QualityFinding]] = []
    relative = torch.stack((network, classical)) / measured.clamp(min=1e-30)
    for ours, theirs in relative.T.tolist():
        worse = ours > _WORSE * theirs and ours - theirs > _WORSE_BY
        sentence = (
            f"lines that were left out are predicted worse by the network than by CG-SENSE: {ours:.0%} of their energy "
            f"is missed, by CG-SENSE {theirs:.0%}"
        )
        findings.append([QualityFinding("network_worse_than_classical", sentence)] if worse else [])
    return findings


def nothing_predicted(network: Tensor, classical: Tensor, measured: Tensor) -> list[list[QualityFinding]]:
    """``lines_not_predicted`` for each slice, with the parameters of `network_worse`."""
    findings: list[list[QualityFinding]] = []
    relative = torch.stack((network, classical)) / measured.clamp(min=1e-30)
    for ours, theirs in relative.T.tolist():
        sentence = (
            f"the image does not tell lines that were left out: the network misses {ours:.0%} of their energy, "
            f"CG-SENSE {theirs:.0%}; the anatomy, the coil maps or the data are unlike those that the networks know"
        )
        findings.append([QualityFinding("lines_not_predicted", sentence)] if ours > _AS_NOTHING else [])
    return findings


def residual(image: Tensor, kspace: Tensor, coil_maps: Tensor, line_mask: Tensor) -> Tensor:
    """``(slices,)``: mean of ‖A x − k‖² over the lines that an image was made from, relative to their noise."""
    apart = prediction_error(image, kspace, coil_maps, line_mask)
    samples = kspace.shape[-3] * kspace.shape[-2] * int(line_mask.sum())
    return apart / (noise_level(kspace, line_mask)[..., 0, 0].square() * samples).clamp(min=1e-30)


def leaves_more(network: Tensor, classical: Tensor) -> list[list[QualityFinding]]:
    """``network_worse_than_classical`` where the network's image does not fit its own data, though CG-SENSE's does.

    Parameters
    ----------
    network, classical
        ``(slices,)``: `residual` of both.
    """
    findings: list[list[QualityFinding]] = []
    for ours, theirs in torch.stack((network, classical)).T.tolist():
        worse = theirs < _EXPLAINED and ours > _LEFT * theirs and ours - theirs > _LEFT_MORE
        sentence = (
            f"the network's image does not fit the lines that it was made from: it misses them by {ours:.2f} times "
            f"their noise, CG-SENSE's by {theirs:.2f}"
        )
        findings.append([QualityFinding("network_worse_than_classical", sentence)] if worse else [])
    return findings


def unsupported_boxes(network: Tensor, classical: Tensor, boxes: tuple[Box, ...]) -> list[QualityFinding]:
    """``finding_not_in_data`` where a box of a slice shows what the classical image does not.

    Parameters
    ----------
    network, classical
        ``(ro, pe)`` images of the same data.
    boxes
        Findings in the network's image.
    """
    images = torch.nn.functional.avg_pool2d(torch.stack((network.abs(), classical.abs()))[:, None], 3, 1, 1)[:, 0]
    findings = []
    for box in boxes:
        rows = slice(max(box.readout - _AROUND_A_BOX, 0), box.readout + box.readout_size + _AROUND_A_BOX)
        columns = slice(max(box.phase - _AROUND_A_BOX, 0), box.phase + box.phase_size + _AROUND_A_BOX)
        patches = images[:, rows, columns].flatten(1)
        patches = patches - patches.mean(1, keepdim=True)
        norms = patches.norm(dim=1)
        alike = float((patches[0] * patches[1]).sum() / (norms[0] * norms[1]).clamp(min=1e-30))
        if alike < _SAME_STRUCTURE:
            findings.append(
                QualityFinding(
                    "finding_not_in_data",
                    f"the box at readout {box.readout}, phase {box.phase} shows structure that CG-SENSE does not "
                    f"(correlation {alike:.2f})",
                )
            )
    return findings
