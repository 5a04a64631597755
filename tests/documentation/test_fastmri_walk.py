"""The commands of `docs/how_to/fastmri.md`, typed as they stand there, from four small files of fastMRI's form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import yaml

from tests.documentation.test_documentation import ROOT, blocks
from tests.training.data.fastmri_files import KNEE, Volume, write_annotations
from tests.training.small import tiny_recipe

WIDE = Volume(patient_id="patient-a", slices=2)
NARROW = Volume(name="file_brain_AXT1_200_0000002", patient_id="patient-b", phase=213, readout=512, margin=6, slices=2)
OTHER = Volume(name="file_brain_AXT1_200_0000003", patient_id="patient-c", phase=300, coils=6, slices=2, seed=1)
VOLUMES = (WIDE, NARROW, OTHER, KNEE)


def written(folder: Path) -> None:
    """Files, tables and a recipe of one step a stage; two of the volumes have boxes, one a word on the whole study."""
    for volume in VOLUMES:
        volume.write(folder / "DIR")
    statement = f"{OTHER.name},0,Yes,,,,,Global label: Small vessel chronic white matter ischemic change"
    table, names = write_annotations(
        folder, [WIDE.row(), NARROW.row(), KNEE.row(label="Meniscus Tear"), statement], [v.name for v in VOLUMES]
    )
    table.rename(folder / "brain.csv")
    names.rename(folder / "brain_file_list.csv")
    recipe = tiny_recipe()
    for name, settings in recipe.items():
        settings.pop("examinations")
        if name in ("reconstruction", "finetune"):
            settings["lines"] = 320
    recipe["finetune"]["accelerations"] = [8.0]
    (folder / "training" / "recipes").mkdir(parents=True)
    (folder / "training" / "recipes" / "shipped.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_end_with_bundles_a_page_and_a_scan(tmp_path):
    written(tmp_path)
    (block,) = blocks(ROOT / "docs" / "how_to" / "fastmri.md", "console")
    text = block.replace("$ pass-recon", f"{sys.executable} -m pass_recon_cli.main")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-e", "-x", "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = json.loads((tmp_path / "dataset" / "manifest.json").read_text())
    grids = {case["name"]: (case["shape"], case["measured_lines"]) for case in manifest["cases"]}
    assert grids[NARROW.name] == ([320, 213], 201)
    assert grids[OTHER.name] == ([320, 300], 300)
    assert grids[KNEE.name] == ([320, 320], 288)
    bundles = {path.name for path in (tmp_path / "runs" / "bundles").iterdir()} - {"common"}
    assert bundles == {"brain-t1-4x", "brain-t1-8x", "knee-pd-4x", "knee-pd-8x"}
    card = json.loads((tmp_path / "runs" / "bundles" / "brain-t1-4x" / "card.json").read_text())
    assert card["notes"].startswith("Research software, not for clinical use. Trained on measured k-space.")
    assert "measured k-space (fastmri), pixels of 0.688 mm" in " ".join(card["data"])
    page = (tmp_path / "results" / "results.md").read_text()
    assert "320 × 300 pixels of 0.688 × 0.688 mm, 75 of 300 measured lines (4×)" in page
    with h5py.File(tmp_path / "out.h5") as file:
        (group,) = file.values()
        assert sum(len(series["data"]) for series in group.values() if "data" in series) >= WIDE.slices
