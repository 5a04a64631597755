"""Licences of all that this package needs, by what the installed packages say of themselves: ``make licences``.

``python -m tests.release.licences`` writes docs/licences.md; a test compares it with what is installed.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

try:
    import tomllib
except ImportError:  # before Python 3.11
    from pip._vendor import tomli as tomllib

PACKAGE = "pass-gadgetron"
ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "licences.md"
# Families by words of licence expressions, classifiers and names, the first that fits; what is unknown stays as it is.
FAMILIES = {
    "AGPL": r"AGPL|Affero",
    "LGPL": r"LGPL|Lesser General",
    "GPL": r"\bGPL|GNU General",
    "MPL": r"MPL|Mozilla",
    "Apache": r"Apache",
    "BSD": r"BSD",
    "MIT": r"\bMIT\b|MIT-CMU|HPND",
    "ISC": r"\bISC\b",
    "PSF": r"PSF|Python Software Foundation|matplotlib",
    "NVIDIA": r"NVIDIA",
    "Unlicense": r"Unlicense|Public Domain|CC0",
    "Zlib": r"\bzlib",
}
# What says no more than "see the file", as its file says.
READ = {"ismrmrd": "MIT-like, ISMRMRD software licence", "gadgetron": "MIT", "cuda-toolkit": "NVIDIA proprietary"}
READ |= {"atheris": "Apache-2.0", "axe-playwright-python": "MIT"}
REFUSED = ("AGPL", "GPL")


def canonical(name: str) -> str:
    """The name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct_requirements() -> list[Requirement]:
    """What pyproject.toml names, whatever the extra, but this project itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    return [one for one in map(Requirement, texts) if canonical(one.name) != PACKAGE]


def needed(package: Distribution, extras: set[str]) -> list[Requirement]:
    """What an installed package needs here, with some of its extras."""
    requirements = map(Requirement, package.requires or [])
    return [
        one
        for one in requirements
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def installed_dependencies() -> dict[str, Distribution]:
    """All packages that this one needs, whatever the extra, and what those need; by name, if they are installed."""
    found: dict[str, Distribution] = {}
    seen: set[str] = set()
    waiting = direct_requirements()
    while waiting:
        one = waiting.pop()
        if (key := f"{canonical(one.name)}{sorted(one.extras)}") in seen:
            continue
        seen.add(key)
        try:
            package = found[canonical(one.name)] = distribution(one.name)
        except PackageNotFoundError:
            continue
        waiting += needed(package, one.extras)
    return dict(sorted(found.items()))


def licence_of(package: Distribution) -> str:
    """What a package says, in one line: the expression, the classifiers, or the first line of the licence."""
    metadata, name = package.metadata, canonical(package.name)
    if name in READ:
        return READ[name]
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier") or [] if "License ::" in text]
    if named := [text for text in classifiers if text != "OSI Approved"]:
        return ", ".join(named)
    lines = (metadata.get("License") or "").strip().splitlines()
    return lines[0][:100] if lines else "not told"


def families(licence: str) -> set[str]:
    """The families that a licence belongs to: what is compared, as packages word the same licence in several ways."""
    found = {family for family, pattern in FAMILIES.items() if re.search(pattern, licence, re.IGNORECASE)}
    return found - ({"GPL"} if "LGPL" in found else set())


def page() -> str:
    """The page of the documentation."""
    direct = {canonical(one.name) for one in direct_requirements()}
    packages = installed_dependencies()
    rows = [
        f"| {name} | {'directly' if name in direct else ''} | {licence_of(package).replace('|', '/')} |"
        for name, package in packages.items()
    ]
    return "\n".join(
        [
            "# Licences of what it needs",
            "",
            f"The {len(packages)} packages that are there with all extras on Linux, by what they say of themselves;",
            "written by `make licences`, compared with what is installed by a test. None is under the GPL or the AGPL.",
            "What is in container images is listed by `make sbom`. The project itself is under the MIT licence.",
            "",
            "| package | needed | licence |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def listed() -> dict[str, str]:
    """Licences by name, as the page has them."""
    rows = re.findall(r"^\| ([^|]+) \| [^|]*\| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.strip(): licence.strip() for name, licence in rows[1:]}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}: {len(listed())} packages\n")
