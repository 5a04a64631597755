"""Real volumes with drawn lesions: read, judged, and learned from."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import torch

from pass_recon.bundles import load_bundle
from pass_recon.types import InputError
from pass_recon_cli.main import main
from training.evaluate.annotated_volumes import annotated_summary, look_at, read_annotated
from training.stages.few_shot_volumes import chosen_few, few_shot_trial
from training.stages.netad import NetADSettings

CONTRAST, SIDE, SLICES = "flair", 48, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five patients, each with a lesion in the second slice, a spot too small to judge in the third."""
    path, draw = tmp_path_factory.mktemp("volumes"), np.random.default_rng(3)
    for patient in range(5):
        image = draw.uniform(60, 100, (SIDE, SIDE, SLICES)).astype(np.float32)
        mask = np.zeros(image.shape, np.uint8)
        mask[10 + patient : 22 + patient, 14:26, 1] = 1
        mask[30, 30, 2] = 1
        image[mask > 0] += 120
        for name, values in ((CONTRAST.upper(), image), ("lesions", mask)):
            volume = nibabel.Nifti1Image(values, np.diag([-5.0, -5.0, 5.0, 1.0]))
            nibabel.save(volume, path / f"p{patient}_{name}.nii.gz")
    return path


def test_slices_keep_their_pixels_and_get_labels(folder):
    volumes = read_annotated(folder, CONTRAST, side=SIDE)
    assert [volume.patient for volume in volumes] == [f"p{number}" for number in range(5)]
    for number, volume in enumerate(volumes):
        assert volume.label.tolist() == [0, 1, -1, 0]
        assert volume.pixel_mm == 5.0
        # First axis left to right, second front to back: readout runs from front to back.
        where = volume.mask[1].nonzero()
        assert where.amin(0).tolist() == [14, 10 + number]
        assert float(volume.image[1][volume.mask[1]].min()) > float(volume.image[0].max())


def test_what_is_missing_is_said(folder, tmp_path):
    with pytest.raises(InputError, match="no t1 volume with a lesion mask"):
        read_annotated(folder, "t1")
    with pytest.raises(InputError, match="nobody is left"):
        chosen_few(read_annotated(folder, CONTRAST, side=SIDE), 5, 0)


def test_the_mean_score_is_of_slices_without_lesions(folder, ground):
    netad = load_bundle(str(ground.bundle)).netad
    volumes = read_annotated(folder, CONTRAST, side=SIDE)
    records = look_at(netad, volumes)
    summary = annotated_summary(records, resamples=20)
    scores = [netad(volume.image).score[volume.label == 0] for volume in volumes]
    assert summary["score_of_normal"]["mean"] == pytest.approx(float(torch.cat(scores).mean()), abs=1e-5)
    assert (summary["slices"], summary["abnormal"], summary["patients"]) == (15, 5, 5)
    assert summary["lesions"]["lesions"] == 5


def test_few_patients_teach_and_the_others_judge(folder, ground):
    netad = load_bundle(str(ground.bundle)).netad
    before = {name: value.clone() for name, value in netad.state_dict().items()}
    volumes = read_annotated(folder, CONTRAST, side=SIDE)
    settings = NetADSettings(steps=30, batch=4, size=48, memory=8, learning_rate=3e-3)
    trial = few_shot_trial(netad, volumes, settings, cases=2, resamples=20)
    assert len(trial["learned_from"]) == 2
    assert trial["before"]["patients"] == trial["after"]["patients"] == 3
    assert trial["after"]["pixel_auc"]["mean"] > max(0.8, trial["before"]["pixel_auc"]["mean"])
    assert all(torch.equal(value, before[name]) for name, value in netad.state_dict().items())


def test_the_command_measures_and_learns(folder, ground, tmp_path, capsys):
    outfile = tmp_path / "volumes.json"
    command = ["train", "lesions", str(ground.bundle), "--volumes", str(folder), "-o", str(outfile)]
    assert main(command) == 0
    (summary,) = json.loads(outfile.read_text()).values()
    assert summary["patients"] == 5
    assert main([*command, "--few-shot", "2", "--set", "steps=2", "size=48", "memory=4"]) == 0
    (trial,) = json.loads(outfile.read_text()).values()
    assert set(trial) == {"before", "after", "learned_from"}
    assert ", after |" in capsys.readouterr().out
