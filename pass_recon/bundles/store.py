"""Bundles on disk: strict loading, saving that never leaves half a bundle, and the bundles that ship."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pass_recon import __version__
from pass_recon.anomaly import NetAD
from pass_recon.anomaly.checkpoints import load_strictly
from pass_recon.bundles.bundle import Bundle
from pass_recon.bundles.card import (
    CARD,
    COMPONENTS,
    DESCRIPTION,
    FORMAT,
    FORMAT_VERSION,
    OPTIONAL_COMPONENTS,
    WeightsFile,
    describe_file,
    entry_of,
    files_of,
    read_card,
)
from pass_recon.common.files import readable_json, written_aside
from pass_recon.common.settings import from_dict, to_dict
from pass_recon.config import ReconstructorConfig, SamplerConfig
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.sampling.personal import LineSampler
from pass_recon.types import BundleError, InputError

SHIPPED = Path(__file__).parent / "shipped"
# A file of this kind in a bundle that its card does not know is at best forgotten and at worst smuggled in.
_WEIGHTS = {".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle"}
_BACKBONE = "backbone."


def shipped_bundles() -> tuple[str, ...]:
    """Names of the bundles that came with the package."""
    return tuple(sorted(path.parent.name for path in SHIPPED.glob(f"*/{CARD}")))


def bundle_folder(name_or_path: str | Path) -> Path:
    """The folder of a shipped bundle by its name, or of any bundle by its path.

    Raises
    ------
    BundleError
        If there is none; says which there are.
    """
    if str(name_or_path) in shipped_bundles():
        return SHIPPED / str(name_or_path)
    path = Path(name_or_path)
    if path.is_file():
        hint = "" if path.name != CARD else f"; give its folder, {path.parent}"
        raise BundleError(
            f"{path} is a file, and a bundle is a folder with a {CARD}{hint}. Pickles are never loaded: the published "
            "weights become a bundle with `pass-recon bundle import-published`"
        )
    if not path.is_dir():
        known = ", ".join(shipped_bundles()) or "none"
        raise BundleError(f"there is no bundle {str(name_or_path)!r}: shipped are {known}; nor is there such a folder")
    return path


def load_bundle(name_or_path: str | Path, *, device: str | torch.device = "cpu") -> Bundle:
    """Load a bundle, all of it or nothing.

    Parameters
    ----------
    name_or_path
        Name of a shipped bundle, or a folder. A folder here that has a shipped bundle's name is ``"./name"``.
    device
        Where to put the networks.

    Returns
    -------
    Bundle
        In evaluation mode and frozen.

    Raises
    ------
    BundleError
        If there is no such bundle, a file is missing, changed, unlisted or no safetensors file, the card is of an
        unknown version or has missing or unknown settings, or weights are missing, unexpected, misshapen or not finite.
    """
    folder = bundle_folder(name_or_path)
    card = read_card(folder)
    files = files_of(card, folder / CARD)
    _check_folder(folder, files)
    weights = {component: _weights_of(component, files, folder) for component in COMPONENTS + OPTIONAL_COMPONENTS}
    configuration = card["configuration"]
    try:
        reconstructor = UnrolledReconstructor(from_dict(ReconstructorConfig, configuration["reconstructor"]))
        sampler = LineSampler(from_dict(SamplerConfig, configuration["sampler"]))
        netad = _netad(configuration["netad"], weights["netad"], folder)
        general = _general(configuration.get("general"), weights["general"], folder)
    except InputError as error:
        raise BundleError(f"bundle {folder}: {error}") from error
    load_strictly(reconstructor, weights["reconstructor"], f"{folder} (reconstructor)")
    load_strictly(sampler, weights["sampler"], f"{folder} (sampler)")
    bundle = Bundle(
        name=card["name"],
        anatomy=card["anatomy"],
        contrast=card["contrast"],
        acceleration=float(card["acceleration"]),
        acs_fraction=float(card["acs_fraction"]),
        reconstructor=reconstructor,
        sampler=sampler,
        netad=netad,
        general=general,
        card=card,
    )
    return bundle.freeze().to(device)


def save_bundle(
    bundle: Bundle,
    folder: str | Path,
    *,
    half: bool = False,
    shared: Collection[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a bundle aside, then move it into place.

    Parameters
    ----------
    bundle
        What to write. Of ``bundle.card`` the description is kept (data, licence, notes, metrics, recipe); the rest is
        written anew.
    folder
        Where it is to be.
    half
        Store the reconstructor and the detector in half precision: half the size, an error of about 5e-4 a weight.
        Measure metrics on what is loaded back.
    shared
        Files to put into the folder ``common`` beside the bundle, under a name made of their content, so that several
        bundles use one copy: of ``"reconstructor"``, ``"general"``, ``"sampler"``, ``"netad"`` and ``"backbone"``.
    overwrite
        Replace a bundle that is there already.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    BundleError
        If something is there that may not be replaced, or the card's description is not plain, finite values.
    """
    folder = Path(folder)
    _check_target(folder, overwrite=overwrite)
    contents: list[tuple[WeightsFile, bytes]] = []
    for part, component, tensors in _parts(bundle, torch.float16 if half else torch.float32):
        content = safetensors.torch.save(tensors)
        name = f"{part}.safetensors"
        if part in shared:
            # Another bundle may have the same weights for its own lines.
            stem = "reconstructor" if part == "general" else part
            name = f"{stem}-{describe_file(name, component, content).sha256[:12]}.safetensors"
        contents.append((describe_file(name, component, content, shared=part in shared), content))
    card = _written(_new_card(bundle, [file for file, _ in contents]))
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial"))
    try:
        fresh = aside / "bundle"
        fresh.mkdir()  # unlike what mkdtemp made, readable for others
        for file, content in contents:
            if file.shared:
                _place_shared(file, content, folder, aside)
            else:
                (fresh / file.name).write_bytes(content)
        (fresh / CARD).write_text(card, encoding="utf-8")
        if folder.exists():
            folder.rename(aside / "replaced")
        fresh.rename(folder)
    finally:
        shutil.rmtree(aside)
    return folder


def _check_target(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / CARD).is_file():
        raise BundleError(f"{folder} exists and is no bundle; it is left alone")
    if not overwrite:
        raise BundleError(f"{folder} already holds a bundle; say overwrite to replace it")


def _parts(bundle: Bundle, dtype: torch.dtype) -> list[tuple[str, str, dict[str, Tensor]]]:
    """File stem, component and tensors of every file."""
    # The sampler is small, and half precision would change which of two close lines comes first.
    parts = [
        ("reconstructor", "reconstructor", _tensors(bundle.reconstructor, dtype)),
        ("sampler", "sampler", _tensors(bundle.sampler, torch.float32)),
    ]
    if bundle.general is not None:
        parts.append(("general", "general", _tensors(bundle.general, dtype)))
    if bundle.netad is not None:
        weights = bundle.netad.weights(dtype)
        backbone = {key: value for key, value in weights.items() if key.startswith(_BACKBONE)}
        parts.append(("netad", "netad", {key: value for key, value in weights.items() if key not in backbone}))
        if backbone:
            parts.append(("backbone", "netad", backbone))
    return parts


def _tensors(network: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    return {key: value.detach().to("cpu", dtype).contiguous() for key, value in network.state_dict().items()}


def _new_card(bundle: Bundle, files: list[WeightsFile]) -> dict[str, Any]:
    description = {name: bundle.card[name] for name in DESCRIPTION if name in bundle.card}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": bundle.name,
        "anatomy": bundle.anatomy,
        "contrast": bundle.contrast,
        "acceleration": bundle.acceleration,
        "acs_fraction": bundle.acs_fraction,
        **description,
        "software": {"pass_recon": __version__, "torch": torch.__version__},
        "configuration": {
            "reconstructor": to_dict(bundle.reconstructor.config),
            "sampler": to_dict(bundle.sampler.config),
            "netad": None if bundle.netad is None else bundle.netad.configuration.to_dict(),
            **({} if bundle.general is None else {"general": to_dict(bundle.general.config)}),
        },
        "files": {file.name: entry_of(file) for file in files},
    }


def write_card(folder: str | Path, card: Mapping[str, Any]) -> None:
    """Replace the card of a bundle, whose files stay.

    Raises
    ------
    BundleError
        If the card is not plain, finite values.
    """
    with written_aside(Path(folder) / CARD) as aside:
        aside.write_text(_written(card), encoding="utf-8")


def _written(card: Mapping[str, Any]) -> str:
    try:
        return readable_json(card, width=190)
    except (TypeError, ValueError) as error:
        raise BundleError(f"the card of {card['name']} cannot be written as JSON: {error}") from error


def _place_shared(file: WeightsFile, content: bytes, folder: Path, aside: Path) -> None:
    """Put a file into the common folder; its name says its content, so one that is there already is the same."""
    target = file.path(folder)
    target.parent.mkdir(exist_ok=True)
    (aside / file.name).write_bytes(content)
    (aside / file.name).replace(target)


def _check_folder(folder: Path, files: tuple[WeightsFile, ...]) -> None:
    listed = {file.name for file in files if not file.shared}
    found = {path.name for path in folder.iterdir() if path.suffix.lower() in _WEIGHTS}
    if found - listed:
        raise BundleError(f"bundle {folder} holds files that {CARD} does not list: {', '.join(sorted(found - listed))}")


def _weights_of(component: str, files: tuple[WeightsFile, ...], folder: Path) -> dict[str, Tensor]:
    """All tensors of a component, from all of its files."""
    weights: dict[str, Tensor] = {}
    for file in files:
        if file.component != component:
            continue
        try:
            tensors = safetensors.torch.load(file.read(folder))
        except SafetensorError as error:
            raise BundleError(
                f"bundle {folder}: {file.name} is no safetensors file ({error}); pickles are never loaded"
            ) from error
        _check_tensors(tensors, weights, f"bundle {folder}: {file.name}")
        weights.update(tensors)
    return weights


def _check_tensors(tensors: Mapping[str, Tensor], known: Mapping[str, Tensor], source: str) -> None:
    if twice := sorted(set(tensors) & set(known)):
        raise BundleError(f"{source} repeats weights of another file: {', '.join(twice[:5])}")
    for key, value in tensors.items():
        if not value.is_floating_point():
            raise BundleError(f"{source}: {key} is {value.dtype}, weights are floating point")
        if not torch.isfinite(value).all():
            raise BundleError(f"{source}: {key} holds NaN or infinity")


def _general(configuration: Any, weights: dict[str, Tensor], folder: Path) -> UnrolledReconstructor | None:
    if configuration is None:
        if weights:
            raise BundleError(f"bundle {folder} has weights of a general reconstructor but no configuration for it")
        return None
    general = UnrolledReconstructor(from_dict(ReconstructorConfig, configuration))
    load_strictly(general, weights, f"{folder} (general)")
    return general


def _netad(configuration: Any, weights: dict[str, Tensor], folder: Path) -> NetAD | None:
    if configuration is None:
        if weights:
            raise BundleError(f"bundle {folder} has weights of a detector but no configuration for it")
        return None
    if not isinstance(configuration, dict):
        raise BundleError(f"bundle {folder}: the configuration of netad must be a table, got {configuration!r}")
    return NetAD.restore(configuration, weights)
