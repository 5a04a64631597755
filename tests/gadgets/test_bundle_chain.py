"""The chain with networks from a bundle on disk: personal plans, maps, and what a plan may depend on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from ismrmrd import Image

from gadgets.chain import run_chain
from gadgets.converters.patient_file import write_patient
from gadgets.mrd.scan_file import ScanFile
from gadgets.properties import Properties
from gadgets.protocol.connection import Failure
from pass_recon.anomaly import NetAD
from pass_recon.bundles import save_bundle
from pass_recon.phantom import simulate_patient
from pass_recon.sampling.lines import acs_count, acs_fraction, acs_mask
from tests.networks import TINY_BACKBONE, tiny_bundle

SHAPE = (96, 90)


@pytest.fixture(scope="module")
def patient():
    return simulate_patient(anatomy="brain", contrast="flair", slices=1, coils=4, shape=SHAPE, noise=0.005, seed=5)


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory):
    bundle = tiny_bundle(NetAD.build(TINY_BACKBONE, anatomy="brain"))
    return save_bundle(bundle, tmp_path_factory.mktemp("bundles") / "tiny")


def _run(path, patient, bundle_folder, **properties):
    write_patient(path, patient)
    with ScanFile(path, "dataset") as source:
        items = list(
            run_chain(source.acquisitions(), source.header_xml, Properties(bundle=str(bundle_folder), **properties))
        )
    assert not [item.message for item in items if isinstance(item, Failure)]
    return {item.image_series_index: item for item in items if isinstance(item, Image)}


def test_images_say_which_bundle_made_them_and_what_it_saw(tmp_path, patient, bundle_folder):
    images = _run(tmp_path / "scan.h5", patient, bundle_folder)
    assert sorted(images) == [1, 2, 3, 1000]
    assert images[1000].meta["PASS_source"] == "personal"
    assert images[1000].data.sum() == 23
    for image in images.values():
        assert image.meta["PASS_bundle"] == "tiny"
        assert 0 <= float(image.meta["PASS_anomaly_score"]) <= 1
    assert images[2].data.max() > 0
    assert "no detector" not in images[2].meta["SeriesDescription"]


def test_without_anomaly_detection_there_is_no_map(tmp_path, patient, bundle_folder):
    images = _run(tmp_path / "scan.h5", patient, bundle_folder, anomaly=False)
    assert sorted(images) == [1, 1000]
    assert "PASS_anomaly_score" not in images[1].meta


def test_a_plan_depends_on_nothing_outside_the_acs(tmp_path, patient, bundle_folder):
    acs = acs_mask(SHAPE[1], acs_count(SHAPE[1], acs_fraction(4)))
    other = patient.kspace.clone()
    other[..., ~acs] = torch.randn_like(other[..., ~acs])
    changed = dataclasses.replace(patient, kspace=other)
    before = _run(tmp_path / "before.h5", patient, bundle_folder)
    after = _run(tmp_path / "after.h5", changed, bundle_folder)
    np.testing.assert_array_equal(before[1000].data, after[1000].data)
    assert before[1000].meta["PASS_anomaly_score"] == after[1000].meta["PASS_anomaly_score"]
    assert not np.array_equal(before[1].data, after[1].data)
