"""Where the chain configurations are, in a clone as in an installed package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def packaged_configurations() -> Path:
    """The folder of the configurations that come with this package.

    Raises
    ------
    FileNotFoundError
        If the installation lacks them.
    """
    spec = find_spec("xml_configs")
    # A namespace package may have several locations, and an editable install names one that is no folder.
    for location in (spec and spec.submodule_search_locations) or ():
        if (Path(location) / "pass_recon.xml").is_file():
            return Path(location)
    raise FileNotFoundError("this installation lacks its chain configurations (the package xml_configs)")
