"""``card.json``: what a bundle is, which files it consists of and what they hash to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pass_recon.types import BundleError

CARD = "card.json"
FORMAT = "pass-bundle"
FORMAT_VERSION = 1
SHARED_FOLDER = "common"
COMPONENTS = ("reconstructor", "sampler", "netad")
OPTIONAL_COMPONENTS = ("general",)

# Names that a card must have, with the types they may be of; DESCRIPTION says where the weights come from.
_REQUIRED: dict[str, tuple[type, ...]] = {
    "format": (str,),
    "format_version": (int,),
    "name": (str,),
    "anatomy": (str,),
    "contrast": (str,),
    "acceleration": (int, float),
    "acs_fraction": (int, float),
    "configuration": (dict,),
    "files": (dict,),
}
DESCRIPTION: dict[str, tuple[type, ...]] = {
    "data": (str, list),
    "licence": (str,),
    "notes": (str,),
    "metrics": (dict,),
    "software": (dict,),
    "recipe": (dict,),
}


@dataclass(frozen=True)
class WeightsFile:
    """One file of weights of a bundle.

    Attributes
    ----------
    name
        File name, without any folder.
    component
        Whose weights: one of ``COMPONENTS``.
    sha256
        Hash of the whole file, in hexadecimal.
    size
        In bytes.
    shared
        Lies in the folder ``common`` beside the bundle, because several bundles use it.
    """

    name: str
    component: str
    sha256: str
    size: int
    shared: bool = False

    def path(self, folder: Path) -> Path:
        """Where the file of the bundle in ``folder`` lies."""
        return (folder.parent / SHARED_FOLDER if self.shared else folder) / self.name

    def read(self, folder: Path) -> bytes:
        """The content, which is what the card says or nothing.

        Raises
        ------
        BundleError
            If the file is missing or its hash is not the card's.
        """
        path = self.path(folder)
        if not path.is_file():
            raise BundleError(f"bundle {folder}: {self.name} is missing ({path})")
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise BundleError(
                f"bundle {folder}: {self.name} is not the file that {CARD} describes (SHA-256 {found[:12]}… instead of "
                f"{self.sha256[:12]}…); it is damaged or was changed"
            )
        return content


def describe_file(name: str, component: str, content: bytes, *, shared: bool = False) -> WeightsFile:
    """The entry of a card for ``content``."""
    return WeightsFile(name, component, hashlib.sha256(content).hexdigest(), len(content), shared)


def read_card(folder: Path) -> dict[str, Any]:
    """The card of the bundle in ``folder``, checked as far as it can be without the weights.

    Raises
    ------
    BundleError
        If there is no card, it is no JSON, or a name is missing, unknown or of the wrong type or version.
    """
    path = folder / CARD
    if not path.is_file():
        raise BundleError(f"{folder} is no bundle: it has no {CARD}")
    try:
        card = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise BundleError(f"{path} is not the card of a bundle: its format is not {FORMAT!r}")
    if card.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {card.get('format_version')!r}; this version of pass_recon reads "
            f"{FORMAT_VERSION} and no other"
        )
    _check_names(card, path)
    return card


def files_of(card: Mapping[str, Any], source: Path) -> tuple[WeightsFile, ...]:
    """The files of weights that a card lists.

    Raises
    ------
    BundleError
        If an entry is incomplete, names another folder or no safetensors file, or belongs to no component.
    """
    return tuple(_file_of(name, entry, source) for name, entry in card["files"].items())


def entry_of(file: WeightsFile) -> dict[str, Any]:
    """What ``card["files"][file.name]`` is to be."""
    return {"component": file.component, "sha256": file.sha256, "bytes": file.size, "shared": file.shared}


def _check_names(card: Mapping[str, Any], path: Path) -> None:
    missing = sorted(set(_REQUIRED) - set(card))
    unknown = sorted(set(card) - set(_REQUIRED) - set(DESCRIPTION))
    if missing or unknown:
        faults = [f"{kind} {', '.join(names)}" for kind, names in (("missing", missing), ("unknown", unknown)) if names]
        raise BundleError(f"{path}: {'; '.join(faults)}")
    for name, kinds in {**_REQUIRED, **DESCRIPTION}.items():
        if name in card and (not isinstance(card[name], kinds) or isinstance(card[name], bool)):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise BundleError(f"{path}: {name} must be {expected}, got {card[name]!r}")
    wrong = (set(card["configuration"]) - set(OPTIONAL_COMPONENTS)) ^ set(COMPONENTS)
    if wrong:
        raise BundleError(f"{path}: configuration must have exactly {', '.join(COMPONENTS)}; see {sorted(wrong)}")
    if not card["acceleration"] >= 1 or not 0 < card["acs_fraction"] < 1:
        raise BundleError(f"{path}: acceleration must be at least 1 and acs_fraction between 0 and 1")


def _file_of(name: str, entry: Any, source: Path) -> WeightsFile:
    expected = {"component": str, "sha256": str, "bytes": int, "shared": bool}
    if (
        not isinstance(entry, dict)
        or set(entry) != set(expected)
        or not all(isinstance(entry[key], kind) for key, kind in expected.items())
    ):
        raise BundleError(f"{source}: the entry of file {name!r} must hold exactly {', '.join(expected)}, got {entry}")
    if PurePath(name).name != name or "\\" in name:
        raise BundleError(f"{source}: the file {name!r} lies outside the bundle")
    if not name.endswith(".safetensors"):
        raise BundleError(f"{source}: {name!r} is no safetensors file; pickles and other formats are never loaded")
    if entry["component"] not in (known := COMPONENTS + OPTIONAL_COMPONENTS):
        raise BundleError(f"{source}: {name!r} belongs to {entry['component']!r}, which is none of {known}")
    return WeightsFile(name, entry["component"], entry["sha256"], entry["bytes"], entry["shared"])


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")
