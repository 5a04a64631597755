"""Turn the PASS authors' published weights into a bundle.

The only place where a pickle is read, by ``torch.load(weights_only=True)``, which executes nothing in it. The weights
carry no licence: they serve tests and comparison and must not be passed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from pass_recon.anomaly.checkpoints import check_state, read_checkpoint
from pass_recon.bundles.bundle import Bundle
from pass_recon.config import NetworkConfig, ReconstructorConfig, SamplerConfig
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.sampling.personal import LineSampler
from pass_recon.types import BundleError

NAME = "published-brain-t1-4x"
# σ(200 · mask parameter) is the probability of a line in stage 1; in stage 2 the AS network adds to 200 · parameter.
POPULATION_SLOPE = 200.0
POPULATION = "create_mask1.ProbMask.mult"
_NOTES = (
    "Imported from the weights that the authors of PASS (arXiv 2604.06849) published for brain T1w, 4×, 320×320. "
    "Images must peak at about 1. There is no detector: its CLIP and adapters are not among the published files. "
    "The authors' ACS is int(N/2 ± 0.04·N), 25 lines of 320; here it is round(0.08·N), 26 lines, the same 25 and one "
    "above them. "
    "The AS network gives 320 logits; another number of lines interpolates them."
)
CONFIG = ReconstructorConfig(
    denoiser=NetworkConfig("published"),
    enhancer=NetworkConfig("published"),
    stages=3,
    inner_iterations=5,
    cg_iterations=5,
    positive_weights=False,
)
# Beginnings of the published keys and of ours.
_PREFIXES = {
    "lamT1": "denoiser_parameter",
    "lamT2": "enhancer_parameter",
    "Net_D.layer.": "denoiser.layers.",
    "Net_G.guide_map.": "enhancer.gate.",
    "Net_G.img_feature.": "enhancer.features.",
    "Net_G.layer.": "enhancer.layers.",
    "Net_Mask.fc1.": "personal.position.",
    "Net_Mask.img.": "personal.image.",
    "Net_Mask.feature.": "personal.features.",
    "Net_Mask.linear1.": "personal.lines.",
}
# Copies of λ₁ that the data-consistency layers keep.
_COPIES = ("DC_1.a", "DC_2.a")


def import_published(weights: str | Path, population: str | Path) -> Bundle:
    """Read the published weights of stage 2 and the population mask of stage 1.

    Parameters
    ----------
    weights
        ``acc_line_4.pth``: reconstructor and AS network.
    population
        ``acc_line_4_pre.pth``, of which only the population mask is used.

    Returns
    -------
    Bundle
        Without a detector.

    Raises
    ------
    BundleError
        If a file is missing, holds more than tensors, or its keys and shapes are not those of the published model.
    """
    state = read_checkpoint(weights)
    mask = _population(read_checkpoint(population), Path(population))
    reconstructor = UnrolledReconstructor(CONFIG)
    sampler = LineSampler(SamplerConfig(lines=len(mask), personal=NetworkConfig("published", {"lines": len(mask)})))
    ours = {**reconstructor.state_dict(), **sampler.state_dict()}
    expected = {theirs: ours[name] for theirs, name in _their_names(ours).items()}
    check_state({**expected, **dict.fromkeys(_COPIES, state.get("lamT1", torch.tensor(0.0)))}, state, str(weights))
    for copy in _COPIES:
        if not torch.equal(state[copy], state["lamT1"]):
            raise BundleError(f"{weights}: {copy} is {state[copy].item():g} but lamT1 is {state['lamT1'].item():g}")
    loaded = {name: state[theirs] for theirs, name in _their_names(ours).items()}
    loaded["population.logits"] = POPULATION_SLOPE * mask
    for network in (reconstructor, sampler):
        network.load_state_dict({name: loaded[name] for name in network.state_dict()})
    card = {
        "data": "fastMRI brain AXT1, prepared and trained on by the authors of PASS",
        "licence": "none stated; for tests and comparison, not to be passed on",
        "notes": _NOTES,
    }
    return Bundle(
        name=NAME,
        anatomy="brain",
        contrast="t1",
        acceleration=4.0,
        acs_fraction=0.08,
        reconstructor=reconstructor,
        sampler=sampler,
        card=card,
    ).freeze()


def _population(state: Mapping[str, Tensor], path: Path) -> Tensor:
    """The population mask ``(pe,)``; the published shape is (1, pe, 1)."""
    if POPULATION not in state:
        raise BundleError(
            f"{path} holds no population mask ({POPULATION}); give the stage-1 weights, acc_line_4_pre.pth"
        )
    mask = state[POPULATION]
    if mask.ndim != 3 or mask.shape[0] != 1 or mask.shape[2] != 1:
        raise BundleError(f"{path}: the population mask has shape {tuple(mask.shape)} instead of (1, pe, 1)")
    return mask.flatten()


def _their_names(ours: Iterable[str]) -> dict[str, str]:
    """Published key to our key, for all of ours that come from the stage-2 file."""
    return {
        their_prefix + name.removeprefix(prefix): name
        for name in ours
        for their_prefix, prefix in _PREFIXES.items()
        if name.startswith(prefix)
    }
