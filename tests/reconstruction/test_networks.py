"""D and G layer by layer, on any size, and what they promise about intensities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pass_recon.config import NetworkConfig
from pass_recon.reconstruction.denoiser import DENOISERS, PublishedDenoiser, UnetDenoiser, build_denoiser
from pass_recon.reconstruction.enhancer import GatedUnetEnhancer, PublishedEnhancer, build_enhancer
from pass_recon.types import InputError
from tests.reconstruction.conftest import disturbed

Array = NDArray[np.float64]
Weights = dict[str, Array]
SIZES = [(24, 20), (25, 19), (7, 5), (1, 33)]


def _convolution(x: Array, weight: Array, bias: Array) -> Array:
    """Cross-correlation with zero padding, (channels, h, w); written out, so that torch is not its own judge."""
    reach = weight.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    out = np.zeros((len(weight), *x.shape[1:])) + bias[:, None, None]
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            window = padded[:, row : row + x.shape[1], column : column + x.shape[2]]
            out += np.einsum("oi,ihw->ohw", weight[:, :, row, column], window)
    return out


def _group_norm(x: Array, groups: int, weight: Array, bias: Array) -> Array:
    grouped = x.reshape(groups, -1)
    centred = grouped - grouped.mean(1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    return normed.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


def _published_chain(x: Array, weights: Weights, prefix: str, groups: list[int], *, relu_at_end: bool = False) -> Array:
    """Convolution, GroupNorm and ReLU as the published state dict numbers them: 0, 1, (2), 3, 4, (5), …"""
    for step, count in enumerate(groups):
        names = [f"{prefix}.{3 * step + offset}" for offset in (0, 1)]
        x = _convolution(x, weights[f"{names[0]}.weight"], weights[f"{names[0]}.bias"])
        x = _group_norm(x, count, weights[f"{names[1]}.weight"], weights[f"{names[1]}.bias"])
        if relu_at_end or step + 1 < len(groups):
            x = np.maximum(x, 0)
    return x


def _numpy(network: torch.nn.Module) -> Weights:
    return {name: value.numpy().astype(np.float64) for name, value in network.state_dict().items()}


def _image(shape: tuple[int, int] = (9, 8), batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, *shape, dtype=torch.complex64)


def test_published_denoiser_follows_its_definition():
    network, image = disturbed(PublishedDenoiser()), _image()
    channels = torch.view_as_real(image)[0].permute(2, 0, 1).numpy().astype(np.float64)
    expected = channels + _published_chain(channels, _numpy(network), "layers", [8, 8, 8, 8, 8, 8, 2])
    with torch.no_grad():
        found = network(image)[0].numpy()
    np.testing.assert_allclose(found, expected[0] + 1j * expected[1], atol=2e-5)


def test_published_enhancer_follows_its_definition():
    network, image, guide = disturbed(PublishedEnhancer()), _image(), torch.rand(1, 9, 8)
    weights = _numpy(network)
    channels = torch.view_as_real(image)[0].permute(2, 0, 1).numpy().astype(np.float64)
    gate = _convolution(guide.numpy().astype(np.float64), weights["gate.0.weight"], weights["gate.0.bias"])
    gate = _convolution(np.maximum(gate, 0), weights["gate.2.weight"], weights["gate.2.bias"])
    features = _published_chain(channels, weights, "features", [8, 8], relu_at_end=True) / (1 + np.exp(-gate))
    expected = channels + _published_chain(features, weights, "layers", [8, 8, 8, 8, 2])
    with torch.no_grad():
        found = network(image, guide)[0].numpy()
    np.testing.assert_allclose(found, expected[0] + 1j * expected[1], atol=2e-5)


@pytest.mark.parametrize("shape", SIZES)
def test_any_size(shape):
    image, guide = _image(shape), torch.rand(1, *shape)
    with torch.no_grad():
        for name in DENOISERS:
            assert disturbed(build_denoiser(NetworkConfig(name)))(image).shape == image.shape
        for name in ("published", "gated_unet"):
            assert disturbed(build_enhancer(NetworkConfig(name)))(image, guide).shape == image.shape


def test_ours_start_as_the_identity():
    image = _image((11, 14))
    torch.testing.assert_close(UnetDenoiser()(image), image)
    torch.testing.assert_close(GatedUnetEnhancer()(image, torch.rand(1, 11, 14)), image)


@pytest.mark.parametrize("factor", [1e-4, 1e5])
def test_ours_scale_with_the_intensity(factor):
    image, guide = _image((20, 17)), torch.rand(1, 20, 17)
    denoiser, enhancer = disturbed(UnetDenoiser()), disturbed(GatedUnetEnhancer())
    with torch.no_grad():
        change = denoiser(image) - image
        assert change.abs().mean() > 1e-2, "the disturbed network must do something for this test to mean anything"
        torch.testing.assert_close(denoiser(factor * image) / factor, denoiser(image), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            enhancer(factor * image, guide) / factor, enhancer(image, guide), rtol=1e-4, atol=1e-5
        )


def test_an_image_of_zeros_gives_numbers():
    image = torch.zeros(1, 12, 12, dtype=torch.complex64, requires_grad=True)
    result = disturbed(UnetDenoiser())(image)
    torch.view_as_real(result).sum().backward()
    assert torch.isfinite(torch.view_as_real(result)).all()
    assert torch.isfinite(torch.view_as_real(image.grad)).all()


def test_the_map_decides_where_ours_acts():
    image, guide = _image((32, 32)), torch.zeros(1, 32, 32)
    enhancer = disturbed(GatedUnetEnhancer((8,), 1, 1))
    spot = guide.clone()
    spot[0, 16, 16] = 1
    with torch.no_grad():
        difference = (enhancer(image, spot) - enhancer(image, guide)).abs()[0]
    assert difference[16, 16] > 0
    # One scale, 3×3 kernels: gate, two in the block, one to unfold reach 4 pixels.
    difference[12:21, 12:21] = 0
    assert difference.max() == 0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (NetworkConfig("resnet"), "no denoiser 'resnet'; known: published, unet"),
        (NetworkConfig("unet", {"depth": 3}), "depth"),
        (NetworkConfig("unet", {"channels": []}), "at least 1"),
        (NetworkConfig("unet", {"channels": ["a"]}), "cannot be built"),
    ],
)
def test_unknown_networks_are_named(config, words):
    with pytest.raises(InputError, match=words):
        build_denoiser(config)
