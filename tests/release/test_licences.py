"""The list of licences is that of what is installed."""

from __future__ import annotations

import pytest

from tests.release.licences import (
    REFUSED,
    canonical,
    direct_requirements,
    families,
    installed_dependencies,
    licence_of,
    listed,
)


@pytest.mark.slow  # of this environment: elsewhere other releases need other packages
def test_all_that_is_installed_is_listed_with_its_licence() -> None:
    known, packages = listed(), installed_dependencies()
    assert not sorted(set(packages) - set(known)), "make licences"
    differing = {
        name: (known[name], licence_of(package))
        for name, package in packages.items()
        if not families(known[name]) & families(licence_of(package)) and known[name] != licence_of(package)
    }
    assert not differing, "make licences"


def test_every_requirement_is_listed_and_none_is_copyleft() -> None:
    known = listed()
    assert not sorted({canonical(one.name) for one in direct_requirements()} - set(known))
    assert not {name: licence for name, licence in known.items() if families(licence) & set(REFUSED)}
    assert not [name for name, licence in known.items() if licence == "not told"]


def test_licences_are_recognised() -> None:
    assert families("GNU Affero General Public License v3") == {"AGPL"}
    assert families("GPL-3.0-only") == {"GPL"}
    assert families("LGPL-2.1-or-later") == {"LGPL"}
    assert families("BSD-3-Clause AND MIT") == {"BSD", "MIT"}
