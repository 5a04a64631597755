"""Detectors on images alone, and the command for it."""

from __future__ import annotations

import json

import pytest
import torch

from pass_recon.bundles import load_bundle
from pass_recon.types import InputError
from pass_recon_cli.main import main
from training.data.images import open_images, stacked
from training.evaluate.detectors import BASELINE, VIEWS, evaluate_detectors, lesion_frequency, look
from training.evaluate.statistics import score_auc


def test_figures_are_those_of_the_detector(ground, data, tmp_path, capsys):
    outfile = tmp_path / "results" / "detection.json"
    command = ["train", "detection", str(ground.bundle), "--data", str(ground.data), "--training", str(data)]
    assert main([*command, "-o", str(outfile)]) == 0
    (views,) = json.loads(outfile.read_text()).values()
    assert set(views) == {*VIEWS, BASELINE}
    said = capsys.readouterr().out
    assert all(f"| {view} |" in said for view in views)
    (source,) = open_images([ground.data], "test", [], 320)
    batch = stacked([source[number] for number in range(len(source))])
    seen = look(load_bundle(str(ground.bundle)).netad, batch, "clean")
    assert views["clean"]["image_auc"]["mean"] == pytest.approx(score_auc(seen.score, batch.label == 1))
    assert views["clean"]["slices"] == len(source)


def test_the_baseline_knows_where_lesions_are_often(data):
    sources = open_images([data], "train", ["knee-pd"], 48)
    frequency = lesion_frequency(sources)
    count = sum(len(source) for source in sources)
    assert 0 < float(frequency.max()) <= 1
    torch.testing.assert_close(frequency * count, (frequency * count).round())


def test_what_has_no_detector_is_named(ground):
    with pytest.raises(InputError, match="has no detector"):
        evaluate_detectors([str(ground.without_detector)], ground.data)
