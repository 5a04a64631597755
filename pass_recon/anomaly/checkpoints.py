"""Weights from files that others wrote: nothing in them is executed, and every key is accounted for."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pass_recon.types import BundleError

_FOLDER_PREFERENCE = ("*.safetensors", "*.bin", "*.pt", "*.pth")


def is_torchscript(path: Path) -> bool:
    """True for a TorchScript archive, the form in which OpenAI published its CLIP models."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a ``.safetensors`` file, a PyTorch checkpoint or OpenAI's TorchScript archive.

    The wrappings of open_clip's training script (``state_dict``, ``module.``) are taken off.

    Raises
    ------
    BundleError
        If the file is missing, unreadable, holds anything but tensors (a pickle with code), or no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise BundleError(f"no weights file at {path}")
    try:
        state = _read(path)
    except pickle.UnpicklingError as error:
        raise BundleError(
            f"{path} is refused: it is a pickle that holds more than tensors ({str(error).splitlines()[0]})"
        ) from error
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} cannot be read as weights: {error}") from error
    return _unwrap(state, path)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if is_torchscript(path):
        with warnings.catch_warnings():
            # TorchScript is on its way out of PyTorch, but OpenAI's archives will stay what they are.
            warnings.simplefilter("ignore")
            return torch.jit.load(str(path), map_location="cpu").state_dict()
    return torch.load(path, map_location="cpu", weights_only=True)


def _unwrap(state: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state:
        raise BundleError(f"{path} holds no state dict but a {type(state).__name__}")
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if len(tensors) != len(state):
        others = sorted(str(key) for key in state if str(key) not in tensors)
        raise BundleError(f"{path} holds entries that are no tensors: {_named(others)}")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def weights_in_folder(folder: Path) -> Path:
    """The weights file of an open_clip folder: one of open_clip's names, else the only one; safetensors before pickles.

    Raises
    ------
    BundleError
        If there is none, or several and none has open_clip's name.
    """
    found = [path for pattern in _FOLDER_PREFERENCE for path in sorted(folder.glob(pattern))]
    # Such folders often also hold model.safetensors, the same weights under the names of another library.
    named = [path for path in found if path.stem in ("open_clip_model", "open_clip_pytorch_model")]
    if named or len(found) == 1:
        return (named or found)[0]
    if found:
        raise BundleError(f"{folder} holds several weights files, which one? {_named(path.name for path in found)}")
    raise BundleError(f"{folder} holds no weights file ({', '.join(_FOLDER_PREFERENCE)})")


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def check_state(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise unless ``state`` has exactly the keys and shapes of ``expected``.

    Raises
    ------
    BundleError
        Naming the missing, the unexpected and the misshapen keys.
    """
    faults = []
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    if missing:
        faults.append(f"missing {_named(missing)}")
    if unexpected:
        faults.append(f"unexpected {_named(unexpected)}")
    if misshapen:
        faults.append(f"wrong shape: {_named(misshapen)}")
    if faults:
        raise BundleError(f"the weights in {source} do not fit the model: {'; '.join(faults)}")


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict of exactly the module's keys and shapes, or raise a ``BundleError`` that names the others."""
    check_state(module.state_dict(), state, source)
    module.load_state_dict(dict(state), strict=True)


def _named(items: Iterable[str], limit: int = 5) -> str:
    listed = list(items)
    text = ", ".join(listed[:limit])
    return text if len(listed) <= limit else f"{text} and {len(listed) - limit} more"
