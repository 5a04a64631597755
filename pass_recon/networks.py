"""What every network here needs: a registry to be built from, complex images as channels, one intensity for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pass_recon.config import NetworkConfig
from pass_recon.types import InputError

PRECISIONS = ("auto", "float32", "bfloat16")


def in_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether convolutions multiply in bfloat16.

    Parameters
    ----------
    precision
        One of `PRECISIONS`. ``"auto"``: where it is three times as fast, on a CPU with AMX. The reconstruction changes
        by less than 0.02 dB, because networks give no image but what is to be changed of one.
    device
        Where they run.

    Raises
    ------
    InputError
        If there is no such precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision != "auto":
        return precision == "bfloat16"
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def build(kind: str, known: Mapping[str, Callable[..., nn.Module]], config: NetworkConfig) -> nn.Module:
    """Build the network that ``config`` names out of the registry ``known``.

    Raises
    ------
    InputError
        If no such network is registered or it does not take these settings.
    """
    if config.name not in known:
        raise InputError(f"there is no {kind} {config.name!r}; known: {', '.join(sorted(known))}")
    try:
        return known[config.name](**config.settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{kind} {config.name!r} cannot be built with {config.settings}: {error}") from error


def as_channels(image: Tensor) -> Tensor:
    """Complex ``(b, ro, pe)`` as real and imaginary channels ``(b, 2, ro, pe)``."""
    return torch.stack((image.real, image.imag), dim=1)


def as_complex(channels: Tensor) -> Tensor:
    """Real and imaginary channels ``(b, 2, ro, pe)`` of any precision as complex64 ``(b, ro, pe)``."""
    channels = channels.float()
    return torch.complex(channels[:, 0], channels[:, 1])


def root_mean_square(image: Tensor) -> Tensor:
    """``√mean|x|²`` of every image ``(b, ro, pe)``, shape ``(b, 1, 1)``; never zero, so that it can be divided by."""
    power = torch.view_as_real(image).square().sum(-1).mean((-2, -1), keepdim=True)
    return power.clamp(min=1e-24).sqrt()


def zero(layer: nn.Conv1d | nn.Conv2d | nn.Linear) -> None:
    """Let a layer give zeros until it has been trained."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def single_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Autocast switched off on the device of ``tensor``: ten bits of mantissa carry no Fourier transform and no CG."""
    # Tensors without data, by which memory is counted, know no autocast.
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)
