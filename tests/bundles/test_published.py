"""The published weights: which files are taken for them, and the published result from the published weights."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pass_recon.bundles import Bundle, import_published, load_bundle, save_bundle
from pass_recon.physics.encoding import SenseOperator
from pass_recon.sampling.lines import select_lines
from pass_recon.types import BundleError

MASK = "create_mask1.ProbMask.mult"


def _chain(prefix: str, widths: list[int]) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of convolution, GroupNorm, activation, repeated, as the published files number them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for step, (before, after) in enumerate(pairwise(widths)):
        size = 1 if after == 2 and "Net_Mask" not in prefix else 3
        shapes[f"{prefix}.{3 * step}.weight"] = (after, before, size, size)
        for name in (f"{3 * step}.bias", f"{3 * step + 1}.weight", f"{3 * step + 1}.bias"):
            shapes[f"{prefix}.{name}"] = (after,)
    return shapes


def _published_shapes() -> dict[str, tuple[int, ...]]:
    """What the file ``acc_line_4.pth`` holds, from looking into it."""
    gate = {"0.weight": (64, 1, 3, 3), "0.bias": (64,), "2.weight": (64, 64, 3, 3), "2.bias": (64,)}
    return {
        **dict.fromkeys(("lamT1", "lamT2", "DC_1.a", "DC_2.a"), ()),
        **_chain("Net_D.layer", [2, 64, 64, 128, 128, 64, 64, 2]),
        **{f"Net_G.guide_map.{name}": shape for name, shape in gate.items()},
        **_chain("Net_G.img_feature", [2, 64, 64]),
        **_chain("Net_G.layer", [64, 128, 128, 64, 64, 2]),
        "Net_Mask.fc1.weight": (1, 42),
        "Net_Mask.fc1.bias": (1,),
        **_chain("Net_Mask.img", [2, 64, 64, 2]),
        **_chain("Net_Mask.feature", [3, 64, 64, 128]),
        "Net_Mask.linear1.weight": (320, 128),
        "Net_Mask.linear1.bias": (320,),
    }


def _fakes(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """Two files of the published form with random numbers."""
    state: dict[str, Any] = {key: torch.randn(shape) for key, shape in _published_shapes().items()}
    state["DC_1.a"] = state["DC_2.a"] = state["lamT1"]
    state.update(changes)
    paths = folder / "stage2.pth", folder / "stage1.pth"
    torch.save({key: value for key, value in state.items() if value is not None}, paths[0])
    torch.save({MASK: torch.randn(1, 320, 1), "lamT1": torch.tensor(0.1)}, paths[1])
    return paths


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Bundle:
    folder = request.getfixturevalue("shared_data") / "published_pass"
    bundle = import_published(folder / "acc_line_4.pth", folder / "acc_line_4_pre.pth")
    return load_bundle(save_bundle(bundle, tmp_path_factory.mktemp("published") / "bundle"))


def test_every_weight_finds_its_place(tmp_path):
    weights, population = _fakes(tmp_path)
    bundle = import_published(weights, population)
    state = torch.load(weights, weights_only=True)
    ours = {**bundle.reconstructor.state_dict(), **bundle.sampler.state_dict()}
    pairs = {
        "lamT1": "denoiser_parameter",
        "lamT2": "enhancer_parameter",
        "Net_D.layer.18.weight": "denoiser.layers.18.weight",
        "Net_G.guide_map.2.bias": "enhancer.gate.2.bias",
        "Net_G.img_feature.4.weight": "enhancer.features.4.weight",
        "Net_G.layer.13.bias": "enhancer.layers.13.bias",
        "Net_Mask.fc1.weight": "personal.position.weight",
        "Net_Mask.img.7.weight": "personal.image.7.weight",
        "Net_Mask.feature.6.weight": "personal.features.6.weight",
        "Net_Mask.linear1.bias": "personal.lines.bias",
    }
    for theirs, name in pairs.items():
        assert torch.equal(state[theirs], ours[name])
    mask = torch.load(population, weights_only=True)[MASK]
    assert torch.equal(bundle.sampler.population(320), 200 * mask.flatten())
    assert len(ours) == len(_published_shapes()) - 2 + 1
    assert (bundle.acceleration, bundle.anatomy, bundle.contrast, bundle.netad) == (4.0, "brain", "t1", None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Net_D.layer.0.bias": None}, r"missing Net_D\.layer\.0\.bias"),
        ({"Net_X.weight": torch.zeros(1)}, r"unexpected Net_X\.weight"),
        ({"Net_D.layer.0.bias": torch.zeros(3)}, r"Net_D\.layer\.0\.bias \(3,\) instead of \(64,\)"),
        ({"DC_2.a": torch.tensor(5.0)}, r"DC_2\.a is 5 but lamT1 is"),
        ({"epoch": 3}, "epoch"),
    ],
)
def test_other_weights_are_refused_by_name(tmp_path, changes, words):
    with pytest.raises(BundleError, match=words):
        import_published(*_fakes(tmp_path, **changes))


def test_swapped_and_missing_files_are_named(tmp_path):
    weights, population = _fakes(tmp_path)
    with pytest.raises(BundleError, match=r"stage2\.pth holds no population mask"):
        import_published(weights, weights)
    with pytest.raises(BundleError, match=r"stage1\.pth.*missing"):
        import_published(population, population)
    with pytest.raises(BundleError, match=r"no weights file at .*none\.pth"):
        import_published(tmp_path / "none.pth", population)


def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path):
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    weights, population = _fakes(tmp_path)
    weights.write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(BundleError, match=r"stage2\.pth"):
        import_published(weights, population)
    assert not (tmp_path / "executed").exists()


# The numbers of the published weights on a real slice.


def _psnr(image: Tensor, truth: Tensor) -> float:
    """Of magnitudes, as the authors measure it, with the peak of the truth."""
    error = (image.abs() - truth.abs()).square().mean()
    return float(10 * torch.log10(truth.abs().max() ** 2 / error))


def _population_lines(bundle: Bundle) -> tuple[Tensor, Tensor]:
    """The authors' ACS (25 lines) and the 80 lines that the population mask prefers, ACS included."""
    acs = torch.zeros(320, dtype=torch.bool)
    acs[int(160 - 320 * 0.08 / 2) : int(160 + 320 * 0.08 / 2)] = True
    return acs, select_lines(bundle.sampler.population(320), acs, 80)


def _t1w_slice(shared_data: Path) -> Tensor:
    nibabel = pytest.importorskip("nibabel")
    volume = nibabel.load(shared_data / "open_ms" / "patient01_study1_T1W.nii.gz")
    # First axis left-right, second front-back: transposed, readout runs front-back as in a fastMRI brain.
    image = torch.from_numpy(np.asarray(volume.dataobj[:, :, 22], dtype=np.float32).T.copy())
    return (image / image.max()).to(torch.complex64)


def _birdcage(shape: tuple[int, int], coils: int = 12) -> Tensor:
    from sigpy.mri import birdcage_maps

    # How well coils tell lines apart moves the result: from 39.0 dB with r = 1.5 to 42 dB with coils as near as 1.
    maps = torch.from_numpy(birdcage_maps((coils, *shape), r=1.4)).to(torch.complex64)
    return maps / torch.linalg.vector_norm(maps, dim=0)


def test_the_published_population_mask(published):
    acs, lines = _population_lines(published)
    assert int(lines.sum()) == 80
    assert int(acs.sum()) == 25
    # In the published mask exactly the ACS columns were never trained.
    assert torch.equal(published.sampler.population(320) == -2000, acs)


def test_a_batch_of_the_published_network_is_its_slices(published):
    maps, lines = _birdcage((32, 28), coils=4), torch.rand(2, 28) < 0.4
    lines[:, 12:16] = True
    operator = SenseOperator(maps.expand(2, -1, -1, -1), lines)
    kspace = operator.forward(torch.randn(2, 32, 28, dtype=torch.complex64) / 3)
    together, _ = published.reconstructor(kspace, operator.coil_maps, lines)
    for item in range(2):
        alone, _ = published.reconstructor(kspace[item], maps, lines[item])
        assert torch.linalg.vector_norm(alone - together[item]) < 1e-5 * torch.linalg.vector_norm(alone)


def test_with_all_lines_the_published_network_hardly_changes_the_image(published, shared_data):
    truth, maps = _t1w_slice(shared_data)[100:148, 120:168].contiguous(), _birdcage((48, 48), coils=4)
    everything = torch.ones(48, dtype=torch.bool)
    kspace = SenseOperator(maps, everything).forward(truth)
    image, _ = published.reconstructor(kspace, maps, everything)
    # Its λ₁ is 0.12 and its networks act on any image, so 0.6 % of change is what there is (0.8 % at 320×320).
    assert torch.linalg.vector_norm(image - truth) < 0.01 * torch.linalg.vector_norm(truth)


@pytest.mark.slow
@pytest.mark.parametrize("constant", [0.0, 0.5])
def test_published_weights_give_the_published_result(published, shared_data, constant):
    truth, maps = _t1w_slice(shared_data), _birdcage((320, 320))
    lines = _population_lines(published)[1]
    operator = SenseOperator(maps, lines)
    kspace = operator.forward(truth)
    image, global_image = published.reconstructor(kspace, maps, lines, anomaly=lambda x: torch.full(x.shape, constant))
    assert _psnr(operator.adjoint(kspace), truth) == pytest.approx(25.1, abs=0.1)
    assert 39.4 < _psnr(image, truth) < 40.0
    assert 0.7 < _psnr(image, truth) - _psnr(global_image, truth) < 1.3
    # Its training saw no noise; what it takes the liberty to change stays below the noise of a good scan, σ = 0.005.
    missed = (operator.forward(image) - kspace)[..., lines]
    assert missed.abs().square().mean().sqrt() < 0.005
