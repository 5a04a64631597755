"""The output file: HDF5, laid out as the stock Gadgetron client writes it, under its name only once it is complete."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import ismrmrd

from gadgets.mrd.dataset import dataset, open_dataset
from pass_recon.common.files import written_aside
from pass_recon.types import InputError

HEADER, PROVENANCE = "xml", "provenance"


def default_group() -> str:
    """The name under which images are stored unless the user gives one: the local time, as the stock client does."""
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")


class _Discarded(Exception):
    """Nothing is to be kept of the file."""


class ImageFile:
    """Collects images in a file beside ``path``, which takes their place when `keep` is called.

    Images of series n go to ``/<group>/image_<n>/{data,header,attributes}``. The group's attributes are the scan's MRD
    header, ``xml``, and what `describe` was told, ``provenance``. What other groups of an existing file hold stays; a
    group of the same name is replaced. `append` may be called from another thread.

    Parameters
    ----------
    path
        The file to write.
    group
        Its group.
    header
        MRD header of the scan, which whoever shows the images needs; empty to leave it out.

    Attributes
    ----------
    images
        Images stored so far.
    kept
        Whether the file is in its place.

    Raises
    ------
    InputError
        If ``path`` exists and is not HDF5, or its folder does not exist.
    """

    def __init__(self, path: str | Path, group: str, header: bytes = b"") -> None:
        self.path = Path(path)
        self.group = group.strip("/")
        self._header = header
        self._provenance: dict[str, Any] = {}
        self.images = 0
        self.kept = False
        self._lock = threading.Lock()
        self._file: ismrmrd.Dataset | None = None
        if not self.group:
            raise InputError("the output group needs a name")
        if not self.path.parent.is_dir():
            raise InputError(f"the folder of the output file does not exist: {self.path.parent}")
        if self.path.exists() and not h5py.is_hdf5(self.path):
            raise InputError(f"the output file exists and is not HDF5, so nothing can be added to it: {self.path}")
        self._writing = written_aside(self.path)
        self._aside = self._writing.__enter__()

    def append(self, image: ismrmrd.Image) -> None:
        """Store one image.

        The members of a series share one array; an image of another shape or type than the first of its series gets an
        array of its own, ``image_<series>_<x>x<y>x<z>x<channels>``.
        """
        with self._lock:
            if self._file is None:
                self._file = self._open()
            self._file.append_image(self._place(self._file, image), image)
            self.images += 1

    def describe(self, source: str | Path, configuration: Mapping[str, str], messages: Sequence[str]) -> None:
        """Tell where the images come from: name of the scan's file, settings by name, and what was said on the way."""
        from pass_recon import __version__

        told = {"configuration": dict(configuration), "messages": list(messages)}
        self._provenance = {"software": f"pass_recon {__version__}", "source": Path(source).name, **told}

    def keep(self) -> bool:
        """Put the file in its place if it holds an image.

        Returns
        -------
        bool
            Whether there was an image.
        """
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
            if self.images and not self.kept:
                self._write_texts()
                self._writing.__exit__(None, None, None)
                self.kept = True
        self.discard()
        return self.kept

    def discard(self) -> None:
        """Leave nothing behind, and whatever lay at ``path`` as it was."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
            if not self.kept:
                self._writing.__exit__(_Discarded, _Discarded(), None)

    def _open(self) -> ismrmrd.Dataset:
        if self.path.exists():
            shutil.copyfile(self.path, self._aside)
            with h5py.File(self._aside, "a") as file, suppress(KeyError):
                del file[self.group]
        else:
            h5py.File(self._aside, "w").close()
        return open_dataset(self._aside, self.group, "a")

    def _write_texts(self) -> None:
        # Attributes, as whoever reads the group expects nothing but images in it. Of variable length they may be large.
        with h5py.File(self._aside, "a") as file:
            told = file[self.group].attrs
            if self._header:
                told.create(HEADER, self._header, dtype=h5py.string_dtype())
            if self._provenance:
                told.create(PROVENANCE, json.dumps(self._provenance), dtype=h5py.string_dtype())

    def _place(self, file: ismrmrd.Dataset, image: ismrmrd.Image) -> str:
        name = f"image_{image.image_series_index}"
        group = file._file.get(f"{self.group}/{name}")
        if group is None:
            return name
        first = group["header"][0]
        shape = (*image.matrix_size, image.channels)
        if (*first["matrix_size"], first["channels"]) == shape and first["data_type"] == image.data_type:
            return name
        return f"{name}_{'x'.join(map(str, shape))}"


def read_images(path: str | Path, group: str, series: int) -> list[ismrmrd.Image]:
    """The images of a series, those of another shape last; empty if there is none."""
    with dataset(path, group, "r") as opened:
        of_series = re.compile(rf"image_{series}(_\d+x.*)?")
        names = sorted(name for name in opened.list() if of_series.fullmatch(name))
        return [opened.read_image(name, number) for name in names for number in range(opened.number_of_images(name))]
