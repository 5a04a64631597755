"""The files at both ends of a scan: a simulated patient as MRD, an MRD file as a source, images as output."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import h5py
import ismrmrd
import numpy as np
import pytest
import torch

from gadgets.converters.image_file import ImageFile, read_images
from gadgets.converters.patient_file import oversample_readout, read_truth, write_patient
from gadgets.mrd.dataset import dataset
from gadgets.mrd.scan_file import ScanFile, without_version
from gadgets.scanner.scan_order import scan_order
from pass_recon.phantom import simulate_patient
from pass_recon.physics.fourier import fft1c, ifft1c, resize_centre
from pass_recon.types import InputError
from tests.gadgets.scans import SMALL, patient_file


@pytest.fixture(scope="module")
def patient():
    return simulate_patient(**SMALL)


@pytest.fixture(scope="module")
def path(patient, tmp_path_factory):
    path = tmp_path_factory.mktemp("patient") / "patient.h5"
    write_patient(path, patient)
    return path


class TestPatientFile:
    def test_read_by_the_ismrmrd_library(self, path, patient):
        with dataset(path, "dataset", "r") as file:
            header = ismrmrd.xsd.CreateFromDocument(file.read_xml_header())
            assert header.version is None
            assert header.measurementInformation.protocolName == "brain_flair"
            encoded, recon = header.encoding[0].encodedSpace, header.encoding[0].reconSpace
            assert (encoded.matrixSize.x, encoded.matrixSize.y, encoded.matrixSize.z) == (96, 64, 1)
            assert (recon.matrixSize.x, recon.matrixSize.y) == (48, 64)
            assert encoded.fieldOfView_mm.x == 2 * recon.fieldOfView_mm.x
            assert recon.fieldOfView_mm.x == pytest.approx(48 * patient.pixel_mm[0])
            limits = header.encoding[0].encodingLimits
            step = limits.kspace_encoding_step_1
            assert (step.minimum, step.maximum, step.center) == (0, 63, 32)
            assert limits.slice.maximum == 2
            assert file.number_of_acquisitions() == 1 + 3 * 64

    def test_noise_scan_comes_first_and_matches_the_imaging_noise(self, path, patient):
        with ScanFile(path) as source:
            first = source.acquisition(0)
        assert first.isFlagSet(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        np.testing.assert_array_equal(first.data, patient.noise_scan.numpy())
        assert first.sample_time_us > 0

    def test_acs_lines_of_all_slices_come_before_other_lines(self, path):
        with h5py.File(path) as file:
            heads = file["dataset/data"][1:]["head"]
        acs = (heads["flags"] >> np.uint64(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING - 1)) & np.uint64(1)
        assert acs.tolist() == [1] * 15 + [0] * (3 * 64 - 15)
        assert sorted(set(heads["idx"]["kspace_encode_step_1"][:15].tolist())) == [30, 31, 32, 33, 34]
        assert heads["idx"]["slice"][:6].tolist() == [0, 2, 1, 0, 2, 1]
        assert (np.diff(heads["scan_counter"].astype(int)) == 1).all()
        assert (np.diff(heads["acquisition_time_stamp"].astype(int)) > 0).all()

    def test_every_line_is_there_once_and_ends_are_flagged(self, path):
        with ScanFile(path) as source:
            acquisitions = list(source.acquisitions())[1:]
        seen = {(a.idx.slice, a.idx.kspace_encode_step_1) for a in acquisitions}
        assert len(seen) == len(acquisitions) == 3 * 64
        ends = [a.idx.slice for a in acquisitions if a.isFlagSet(ismrmrd.ACQ_LAST_IN_SLICE)]
        assert sorted(ends) == [0, 1, 2]
        assert ends == [a.idx.slice for a in acquisitions[-3:]]
        assert [a.isFlagSet(ismrmrd.ACQ_LAST_IN_MEASUREMENT) for a in acquisitions[-2:]] == [False, True]

    def test_geometry(self, path, patient):
        with h5py.File(path) as file:
            heads = file["dataset/data"][1:]["head"]
        frame = np.stack([heads[name][0] for name in ("read_dir", "phase_dir", "slice_dir")])
        np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(frame) == pytest.approx(1.0)
        positions = np.stack([heads["position"][heads["idx"]["slice"] == index][0] for index in range(3)])
        # Axial slices, counted from the neck upwards; the patient's left is on the image's right.
        np.testing.assert_allclose(np.diff(positions, axis=0), [[0, 0, patient.slice_mm]] * 2, atol=1e-6)
        np.testing.assert_array_equal(frame[:2], [[0, 1, 0], [1, 0, 0]])

    def test_removing_the_oversampling_gives_the_kspace_back(self, path, patient):
        wide = torch.zeros(3, 4, 96, 64, dtype=torch.complex64)
        with ScanFile(path) as source:
            for a in list(source.acquisitions())[1:]:
                wide[a.idx.slice, :, :, a.idx.kspace_encode_step_1] = torch.from_numpy(a.data)
        narrow = fft1c(resize_centre(ifft1c(wide, -2), (48, 64)), -2)
        assert (narrow - patient.kspace).abs().max() < 1e-5 * patient.kspace.abs().max()

    def test_noise_stays_white_when_oversampled(self):
        noise = 0.3 * torch.randn(1, 2, 64, 400, dtype=torch.complex64)
        wide = oversample_readout(noise, 0.3 * torch.randn(2, 50_000, dtype=torch.complex64))
        assert wide.abs().square().mean().sqrt() == pytest.approx(0.3, rel=0.02)
        neighbours = (wide[..., 1:, :] * wide[..., :-1, :].conj()).mean().abs() / 0.09
        assert neighbours < 0.02

    def test_truth_comes_back(self, path, patient):
        truth = read_truth(path)
        np.testing.assert_array_equal(truth.image, patient.image.numpy())
        np.testing.assert_array_equal(truth.coil_maps, patient.coil_maps.numpy())
        np.testing.assert_array_equal(truth.lesion_mask, patient.lesion_masks.numpy())
        assert truth.boxes == patient.boxes
        with h5py.File(path) as file:
            assert dict(file["truth"].attrs) | {"notice": ""} == {
                "anatomy": "brain", "contrast": "flair", "seed": 0, "notice": "",
            }  # fmt: skip

    def test_noiseless_patient(self, tmp_path):
        truth = read_truth(patient_file(tmp_path / "p.h5", noise=0.0, slices=1))
        assert truth.image.shape == (1, 48, 64)

    def test_nothing_is_left_when_writing_fails(self, patient, tmp_path, monkeypatch):
        def full(*_):
            raise OSError("disk full")

        monkeypatch.setattr("gadgets.converters.patient_file._write_truth", full)
        with pytest.raises(OSError, match="disk full"):
            write_patient(tmp_path / "p.h5", patient)
        assert list(tmp_path.iterdir()) == []


class TestScanFile:
    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (b"", "is not an MRD file, for it is not HDF5"),
            (b"certainly not HDF5", "is not an MRD file, for it is not HDF5"),
            (None, "no such file"),
        ],
    )
    def test_not_hdf5(self, tmp_path, content, sentence):
        file = tmp_path / "x.h5"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(InputError, match=sentence):
            ScanFile(file)

    @pytest.mark.parametrize("fraction", [0.02, 0.5, 0.99])
    def test_truncated(self, path, tmp_path, fraction):
        content = path.read_bytes()
        (tmp_path / "cut.h5").write_bytes(content[: int(fraction * len(content))])
        with pytest.raises(InputError, match="is truncated or damaged"):
            ScanFile(tmp_path / "cut.h5")

    def test_other_hdf5(self, tmp_path, path):
        with pytest.raises(InputError, match="no group 'other' to read a scan from; it holds dataset, truth"):
            ScanFile(path, "other")
        with pytest.raises(InputError, match=r"group 'truth' holds no header \('xml'\)"):
            ScanFile(path, "truth")
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["dataset/xml"] = [b"<a/>"]
            file["dataset/data"] = np.zeros(3)
        with pytest.raises(InputError, match="does not hold acquisitions"):
            ScanFile(tmp_path / "x.h5")

    def test_header_that_is_no_header(self, path, tmp_path):
        file = tmp_path / "x.h5"
        shutil.copy(path, file)
        with h5py.File(file, "a") as opened:
            opened["dataset/xml"][0] = b"<ismrmrdHeader>"
        with pytest.raises(InputError, match=r"the MRD header of .* cannot be read"):
            ScanFile(file)

    def test_data_that_do_not_fit_their_header(self, path, tmp_path):
        file = tmp_path / "x.h5"
        shutil.copy(path, file)
        with h5py.File(file, "a") as opened:
            row = opened["dataset/data"][5]
            row["head"]["active_channels"] += 1
            opened["dataset/data"][5] = row
        with ScanFile(file) as source:
            with pytest.raises(InputError, match=r"acquisition 5 of .* cannot be read"):
                source.acquisition(5)
            with pytest.raises(InputError, match="cannot be read"):
                list(source.acquisitions())

    def test_only_the_version_of_the_header_goes(self):
        xml = b"<h:ismrmrdHeader>\n <h:version>8</h:version>\n <h:x>version</h:x></h:ismrmrdHeader>"
        assert without_version(xml) == b"<h:ismrmrdHeader>\n <h:x>version</h:x></h:ismrmrdHeader>"
        assert without_version(b"<a><b/></a>") == b"<a><b/></a>"


class TestScanOrder:
    def test_lines_count_from_the_centre_of_the_encoded_grid(self, tmp_path):
        """A partial Fourier scan counts its lines from 0 but its centre is not in the middle of what is acquired."""
        file = patient_file(tmp_path / "p.h5", slices=1)
        with h5py.File(file, "a") as opened:
            xml = opened["dataset/xml"][0].replace(b"<center>32</center>", b"<center>20</center>")
            opened["dataset/xml"][0] = xml
            rows = opened["dataset/data"][:]
            rows["head"]["idx"]["kspace_encode_step_1"] -= np.uint16(12)
            kept = [row for row in rows if row["head"]["idx"]["kspace_encode_step_1"] < 52]
            del opened["dataset/data"]
            opened["dataset/data"] = np.array(kept, dtype=rows.dtype)
        with ScanFile(file) as source:
            order = scan_order(source, 4)
        assert sorted(order.slices[0].numbers) == list(range(12, 64))
        assert list(order.acs) == [30, 31, 32, 33, 34]

    def test_averages_go_one_after_the_other(self, path):
        with ScanFile(path) as source:
            one = scan_order(source, 4).slices[0]
        one.numbers = {3: [10, 20], 4: [11, 21], 5: [12]}
        assert one.acquisitions([4, 3, 5, 9]) == [11, 10, 12, 21, 20]

    @pytest.mark.parametrize(
        ("old", "new", "sentence"),
        [
            (b"<trajectory>cartesian", b"<trajectory>radial", "only Cartesian scans are supported"),
            (b"<z>1</z>", b"<z>16</z>", "only 2D scans are supported"),
            (b"<y>64</y>", b"<y>40</y>", "slice 0 has line 40, outside the 40 lines"),
        ],
    )
    def test_scans_that_no_closed_loop_can_run(self, path, tmp_path, old, new, sentence):
        file = tmp_path / "x.h5"
        shutil.copy(path, file)
        with h5py.File(file, "a") as opened:
            xml = opened["dataset/xml"][0]
            assert old in xml
            opened["dataset/xml"][0] = xml.replace(old, new)
            if new == b"<y>40</y>":  # the centre goes with the matrix, the lines stay
                opened["dataset/xml"][0] = opened["dataset/xml"][0].replace(b"<center>32", b"<center>20")
        with ScanFile(file) as source, pytest.raises(InputError, match=sentence):
            scan_order(source, 4)

    @pytest.mark.parametrize("acceleration", [0.0, -4.0, float("nan")])
    def test_impossible_acceleration(self, path, acceleration):
        with ScanFile(path) as source, pytest.raises(InputError, match="'acceleration' must be a number of at least 1"):
            scan_order(source, acceleration)

    def test_acs_lines_that_are_not_there(self, path, tmp_path):
        file = tmp_path / "x.h5"
        shutil.copy(path, file)
        with h5py.File(file, "a") as opened:
            rows = opened["dataset/data"][:]
            index = rows["head"]["idx"]
            gone = (index["kspace_encode_step_1"] == 31) & (index["slice"] == 2)
            del opened["dataset/data"]
            opened["dataset/data"] = rows[~gone]
        with ScanFile(file) as source, pytest.raises(InputError, match="slice 2 lacks 1 of its 5 ACS lines"):
            scan_order(source, 4)

    @pytest.mark.skipif(shutil.which("ismrmrd_generate_cartesian_shepp_logan") is None, reason="no ismrmrd-tools")
    def test_file_of_another_author(self, tmp_path):
        file = tmp_path / "g.h5"
        command = ["ismrmrd_generate_cartesian_shepp_logan", "-m", "64", "-c", "3", "-r", "2", "-C", "-o", str(file)]
        subprocess.run(command, check=True, capture_output=True)
        with ScanFile(file) as source:
            order = scan_order(source, 4)
        assert [one.key for one in order.slices] == [(0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 1, 0)]
        assert order.preparation == [0]


def image(value: int, series: int = 1, shape: tuple[int, int] = (4, 3)) -> ismrmrd.Image:
    return ismrmrd.Image.from_array(np.full(shape, value, dtype=np.uint16), transpose=False, image_series_index=series)


class TestImageFile:
    def test_read_back_by_the_library(self, tmp_path):
        output = ImageFile(tmp_path / "out.h5", "/a")
        pixels = (np.arange(12) + 1j).astype(np.complex64).reshape(3, 4)
        written = ismrmrd.Image.from_array(pixels, transpose=False, image_series_index=7)
        written.meta = {"GADGETRON_ROI_0": ["1", "2", "3"]}
        output.append(written)
        assert output.keep()
        with dataset(tmp_path / "out.h5", "a", "r") as file:
            read = file.read_image("image_7", 0)
        np.testing.assert_array_equal(read.data[0, 0], pixels)
        assert read.meta["GADGETRON_ROI_0"] == ["1", "2", "3"]

    def test_nothing_under_the_name_before_all_is_there(self, tmp_path):
        output = ImageFile(tmp_path / "out.h5", "a")
        output.append(image(1))
        assert not (tmp_path / "out.h5").exists()
        output.discard()
        assert list(tmp_path.iterdir()) == []

    def test_other_groups_stay_and_the_same_group_is_replaced(self, tmp_path):
        for group, value in (("a", 1), ("b", 2), ("a", 3)):
            output = ImageFile(tmp_path / "out.h5", group)
            output.append(image(value))
            output.keep()
        with h5py.File(tmp_path / "out.h5") as file:
            assert {name: file[f"{name}/image_1/data"][:, 0, 0, 0, 0].tolist() for name in file} == {"a": [3], "b": [2]}

    def test_an_existing_file_stays_untouched_without_images(self, tmp_path):
        with h5py.File(tmp_path / "out.h5", "w") as file:
            file["precious"] = 1
        before = (tmp_path / "out.h5").read_bytes()
        assert not ImageFile(tmp_path / "out.h5", "a").keep()
        assert (tmp_path / "out.h5").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]

    def test_images_of_another_shape_are_not_lost(self, tmp_path):
        output = ImageFile(tmp_path / "out.h5", "a")
        for one in (image(1), image(2, shape=(5, 3)), image(3), image(4, series=2)):
            output.append(one)
        output.keep()
        with h5py.File(tmp_path / "out.h5") as file:
            assert {name: len(file["a"][name]["data"]) for name in file["a"]} == {
                "image_1": 2, "image_1_3x5x1x1": 1, "image_2": 1,
            }  # fmt: skip

    def test_images_of_all_shapes_are_read_back(self, tmp_path):
        output = ImageFile(tmp_path / "out.h5", "a")
        for one in (image(1), image(2, shape=(5, 3)), image(3), image(4, series=11)):
            output.append(one)
        output.keep()
        assert [int(one.data[0, 0, 0, 0]) for one in read_images(tmp_path / "out.h5", "a", 1)] == [1, 3, 2]

    def test_header_and_provenance(self, tmp_path):
        header = f"<ismrmrdHeader>é{' ' * 100_000}</ismrmrdHeader>"  # more than HDF5 keeps beside an object
        output = ImageFile(tmp_path / "out.h5", "a", header.encode())
        output.append(image(1))
        output.describe("/somewhere/scan.h5", {"bundle": "auto"}, ["slice 1 is late"])
        output.keep()
        with h5py.File(tmp_path / "out.h5") as file:
            assert list(file["a"]) == ["image_1"], "as the stock client writes it"
            assert file["a"].attrs["xml"] == header
            told = json.loads(file["a"].attrs["provenance"])
        assert told.pop("software").startswith("pass_recon ")
        assert told == {
            "source": "scan.h5", "configuration": {"bundle": "auto"}, "messages": ["slice 1 is late"]
        }  # fmt: skip

    def test_what_cannot_be_written_is_refused_at_once(self, tmp_path):
        (tmp_path / "text").write_text("not HDF5")
        with pytest.raises(InputError, match="exists and is not HDF5"):
            ImageFile(tmp_path / "text", "a")
        with pytest.raises(InputError, match="folder of the output file does not exist"):
            ImageFile(tmp_path / "no" / "out.h5", "a")
        with pytest.raises(InputError, match="needs a name"):
            ImageFile(tmp_path / "out.h5", "/")

    def test_what_another_scan_writes_meanwhile_stays(self, tmp_path):
        first, second = ImageFile(tmp_path / "out.h5", "a"), ImageFile(tmp_path / "out.h5", "b")
        for output, value in ((first, 1), (second, 2)):
            output.append(image(value))
        assert first.keep()
        assert second.keep()
        with h5py.File(tmp_path / "out.h5") as file:
            assert {name: file[f"{name}/image_1/data"][:, 0, 0, 0, 0].tolist() for name in file} == {"a": [1], "b": [2]}
        assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]

    @pytest.mark.parametrize("group", [None, "mine"])
    def test_scans_of_the_same_second_or_name_do_not_replace_each_other(self, tmp_path, group, monkeypatch):
        monkeypatch.setattr("gadgets.converters.image_file.default_group", lambda: "2026-01-02 03:04:05")
        outputs = [ImageFile(tmp_path / "out.h5", group) for _ in range(3)]
        for number, output in enumerate(outputs):
            output.append(image(number))
            output.keep()
        name = group or "2026-01-02 03:04:05"
        assert [output.group for output in outputs] == [name, f"{name} (2)", f"{name} (3)"]
        for number, output in enumerate(outputs):
            assert [int(one.data[0, 0, 0, 0]) for one in read_images(tmp_path / "out.h5", output.group, 1)] == [number]
        told = (
            [] if group is None else [f"another scan has written the group 'mine' of {tmp_path / 'out.h5'} meanwhile"]
        )
        assert [sentence.partition(";")[0] for sentence in outputs[2].trouble] == told

    def test_many_processes_write_into_one_file(self, tmp_path):
        script = (
            "import sys, numpy, ismrmrd\nfrom gadgets.converters.image_file import ImageFile\n"
            "output = ImageFile(sys.argv[1])\n"
            "output.append(ismrmrd.Image.from_array(numpy.full((4, 3), int(sys.argv[2]), numpy.uint16)))\n"
            "sys.stdin.readline()\nassert output.keep()\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "out.h5")]
        children = [subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE) for number in range(4)]
        for child in children:
            child.communicate(b"\n")
        assert [child.returncode for child in children] == [0] * 4
        with h5py.File(tmp_path / "out.h5") as file:
            assert sorted(int(group["image_0/data"][0, 0, 0, 0, 0]) for group in file.values()) == [0, 1, 2, 3]
        assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]

    def test_a_full_disk_keeps_what_fits_and_says_so_in_one_sentence(self, tmp_path):
        """A child, for only a limit on the size of a file fills a disk without being root."""
        script = (
            "import resource, sys, numpy, ismrmrd\nfrom gadgets.converters.image_file import ImageFile\n"
            "from pass_recon.types import InputError\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))\n"
            "output, said = ImageFile(sys.argv[1], 'a'), set()\n"
            "for number in range(8):\n"
            "    try:\n"
            "        pixels = numpy.full((256, 512), number, numpy.float32)\n"
            "        output.append(ismrmrd.Image.from_array(pixels, transpose=False))\n"
            "    except InputError as error:\n"
            "        said.add(str(error))\n"
            "output.keep()\nprint(output.images, *said)\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "out.h5")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"4 no room for all images in {tmp_path}: File too large\n"
        assert [int(one.data[0, 0, 0, 0]) for one in read_images(tmp_path / "out.h5", "a", 0)] == [0, 1, 2, 3]
        assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]

    def test_images_that_cannot_be_added_to_a_file_get_one_of_their_own(self, tmp_path):
        output = ImageFile(tmp_path / "out.h5", "a")
        output.append(image(1))
        (tmp_path / "out.h5").write_bytes(b"somebody else's, and no HDF5")
        assert output.keep()
        (sentence,) = output.trouble
        assert f"could not be added to {tmp_path / 'out.h5'}" in sentence
        assert f"they are in {output.path}" in sentence
        assert len(read_images(output.path, "a", 1)) == 1
        assert (tmp_path / "out.h5").read_bytes() == b"somebody else's, and no HDF5"
