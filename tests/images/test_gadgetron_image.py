"""The plugin on an image laid out as Gadgetron's: `docker/build.sh gadgetron` with STAND_INS=1, the real one missing.

The stand-in's server is the embedded one with the configurations of Gadgetron's folder, so that the install script, the
entry point and the resident process are tried, and Gadgetron itself is not.
"""

from __future__ import annotations

import pytest

import pass_recon_cli.main as command_line
from gadgets.converters.image_file import read_images
from tests.gadgets.scans import patient_file
from tests.images.engine import Container, exists, wait_until

pytestmark = [pytest.mark.images, pytest.mark.timeout(600)]
IMAGE, METRICS, PORT = "localhost/pass-gadgetron:cpu", 9103, 19004
KILL_RESIDENT = r"""
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    if b"\0resident\0" in open(f"/proc/{pid}/cmdline", "rb").read():
        os.kill(int(pid), 9)
"""


def test_scans_with_its_configurations_and_keeps_the_resident_process_alive(tmp_path):
    if not exists(IMAGE):
        pytest.skip(f"there is no image {IMAGE}: STAND_INS=1 docker/build.sh gadgetron")
    patient = patient_file(tmp_path / "patient.h5", slices=1)
    options = ("-e", f"PASS_METRICS_PORT={METRICS}")
    with Container(IMAGE, "pass-gadgetron-test", options=options) as container:
        wait_until(True, METRICS)
        listed = container.execute("ls", "/opt/conda/envs/gadgetron/share/gadgetron/config").split()
        assert "pass_recon_resident.xml" in listed
        arguments = ["scan", "-p", str(PORT), "-f", str(patient), "-c", "pass_recon_resident.xml", "-G", "g"]
        assert command_line.main([*arguments, "-o", str(tmp_path / "o.h5")]) == 0
        assert read_images(tmp_path / "o.h5", "g", 1)
        container.execute("python3", "-c", KILL_RESIDENT)
        wait_until(True, METRICS)
        assert "it is started again" in container.logs()
        assert command_line.main([*arguments, "-o", str(tmp_path / "again.h5")]) == 0
        assert container.execute("id", "-u").strip() == "10001"
        assert container.stop() == 0, "SIGTERM is no crash"
