"""What `pass-recon doctor` looks at: each check says what is, whether that will do, and what to do if not."""

from __future__ import annotations

import filecmp
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

from pass_recon_cli.configurations import packaged_configurations

DISTRIBUTION = "pass-gadgetron"
# Ports of pass-recon serve (and of a Gadgetron), of pass-recon resident, and of Gadgetron's storage server.
SERVER_PORT, RESIDENT_PORT, STORAGE_PORT = 9002, 18100, 9112
_PATIENCE_S = 30.0
# Distributions whose module has another name.
_MODULES = {
    "open-clip-torch": "open_clip", "pyyaml": "yaml", "pillow": "PIL", "scikit-image": "skimage",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes
    ----------
    topic
        What was looked at.
    state
        ``ok``; ``note``: something optional is missing; ``broken``: something needed is.
    fact
        What is.
    advice
        What to do next, empty where nothing is to be done.
    """

    topic: str
    state: Literal["ok", "note", "broken"]
    fact: str
    advice: str = ""


def all_checks() -> Iterator[Finding]:
    """Every check, as soon as it is done."""
    yield from _software()
    yield from _device()
    yield from _bundles()
    yield from _configurations()
    yield from _gadgetron()
    yield from _ports()


def _software() -> Iterator[Finding]:
    from pass_recon import __version__

    python = platform.python_version()
    old = sys.version_info < (3, 10)
    yield Finding(
        "Python",
        "broken" if old else "ok",
        f"{python} ({sys.executable})",
        "install Python 3.10 or newer" if old else "",
    )
    try:
        needed = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield Finding("package", "note", f"pass_recon {__version__}, not installed", "pip install . in the clone")
        return
    yield Finding("package", "ok", f"pass_recon {__version__}")
    extras: dict[str, list[str]] = {}
    for requirement in needed:
        found = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?[^;]*(?:;.*extra == [\"'](\w+)[\"'])?", requirement)
        if found:
            extras.setdefault(found[2] or "", []).append(found[1])
    broken = [f"{name} ({why})" for name in extras.pop("", []) if (why := _fault(name))]
    if broken:
        yield Finding("packages", "broken", f"missing: {', '.join(broken)}", f"pip install {DISTRIBUTION}")
    else:
        yield Finding("packages", "ok", f"torch {metadata.version('torch')} and all others that are needed")
    extras.pop("dev", None)
    for extra, names in sorted(extras.items()):
        missing = [name for name in names if not _installed(name)]
        if missing:
            advice = f"pip install '{DISTRIBUTION}[{extra}]', if you want it"
            yield Finding(f"extra {extra}", "note", f"missing: {', '.join(missing)}", advice)
        else:
            yield Finding(f"extra {extra}", "ok", ", ".join(names))


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _fault(name: str) -> str:
    """Why a package cannot be used; empty if it can."""
    if not _installed(name):
        return "not installed"
    try:
        import_module(_MODULES.get(name.lower().replace("_", "-"), name.replace("-", "_")))
    except Exception as error:  # noqa: BLE001, whatever a broken installation raises is what is to be told
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _device() -> Iterator[Finding]:
    try:
        import torch
    except Exception:  # noqa: BLE001, told among the packages
        return
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        yield Finding("device", "ok", f"cuda: {torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    elif torch.backends.mps.is_available():
        yield Finding("device", "ok", "mps")
    else:
        yield Finding("device", "ok", f"cpu, {os.cpu_count()} cores, {torch.get_num_threads()} threads; no GPU")


def _bundles() -> Iterator[Finding]:
    try:
        from pass_recon.bundles import load_bundle, shipped_bundles
    except Exception:  # noqa: BLE001, told among the packages
        return
    from pass_recon.types import PassError

    names = shipped_bundles()
    if not names:
        advice = "reinstall the package; without bundles there is only the classical reconstruction"
        yield Finding("bundles", "broken", "none came with this package", advice)
    for name in names:
        try:
            load_bundle(name)
        except (PassError, OSError) as error:
            yield Finding(f"bundle {name}", "broken", str(error), f"pip install --force-reinstall {DISTRIBUTION}")
        else:
            yield Finding(f"bundle {name}", "ok", "every file and weight checked")


def _configurations() -> Iterator[Finding]:
    from gadgets.server.configuration import parse
    from pass_recon.types import PassError

    again = f"pip install --force-reinstall {DISTRIBUTION}"
    try:
        folder = packaged_configurations()
    except FileNotFoundError as error:
        yield Finding("configurations", "broken", str(error), again)
        return
    names = sorted(path.name for path in folder.glob("*.xml"))
    for name in names:
        try:
            parse((folder / name).read_bytes())
        except (PassError, OSError) as error:
            yield Finding(
                "configurations", "broken", f"{name}: {error}", f"pip install --force-reinstall {DISTRIBUTION}"
            )
            return
    yield Finding("configurations", "ok", f"{', '.join(names)} in {folder}")


def _gadgetron() -> Iterator[Finding]:
    program = shutil.which("gadgetron")
    if program is None:
        yield Finding("Gadgetron", "note", "none on PATH", "not needed: pass-recon serve runs the same configurations")
        return
    home = Path(os.environ.get("GADGETRON_HOME") or Path(program).resolve().parents[1])
    yield Finding("Gadgetron", "ok", f"{program}, home {home}")
    folder = home / "share" / "gadgetron" / "config"
    ours = packaged_configurations()
    names = sorted(path.name for path in ours.glob("*.xml"))
    missing = [name for name in names if not (folder / name).is_file()]
    other = [
        name for name in names if name not in missing and not filecmp.cmp(ours / name, folder / name, shallow=False)
    ]
    copy = f"cp {ours}/*.xml {folder}/"
    if missing:
        yield Finding("its configurations", "note", f"not in {folder}: {', '.join(missing)}", copy)
    elif other:
        yield Finding("its configurations", "note", f"differ from ours: {', '.join(other)}", f"{copy}, if not meant so")
    else:
        yield Finding("its configurations", "ok", f"{len(names)} in {folder}")
    yield _python_of_gadgetron(needed=not missing)


def _python_of_gadgetron(*, needed: bool) -> Finding:
    """Gadgetron starts gadgets with the first Python on its PATH."""
    python = shutil.which("python") or shutil.which("python3")
    if python is None:
        return Finding("its Python", "broken" if needed else "note", "none on PATH", "put the Python with PASS on PATH")
    command = [python, "-c", "import gadgetron, gadgets.acs_buffer"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False, cwd="/")
        fault = (done.stderr.strip().splitlines() or ["it failed"])[-1] if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        fault = str(error)
    if not fault:
        return Finding("its Python", "ok", python)
    advice = (
        f"{python} -m pip install {DISTRIBUTION}, or start Gadgetron with {Path(sys.executable).parent} first on PATH"
    )
    return Finding("its Python", "broken" if needed else "note", f"{python} cannot run the gadgets: {fault}", advice)


def _ports() -> Iterator[Finding]:
    for topic, port in (("port of serve", SERVER_PORT), ("port of resident", RESIDENT_PORT)):
        if _answers(port):
            advice = f"fine if it is the one that you started; otherwise use --port with another than {port}"
            yield Finding(topic, "ok", f"{port}: something listens there", advice)
        else:
            yield Finding(topic, "ok", f"{port} is free")
    if _answers(STORAGE_PORT):
        yield Finding("storage server", "ok", f"answers on {STORAGE_PORT}")
        return
    there = shutil.which("gadgetron_storage_server")
    fact = f"none on {STORAGE_PORT}" + ("" if there else ", nor is there a gadgetron_storage_server on PATH")
    advice = "only NoiseAdjust of a Gadgetron needs it; use pass_recon_plain.xml without one"
    yield Finding("storage server", "note", fact, advice)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
