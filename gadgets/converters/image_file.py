"""The output file: HDF5, laid out as the stock Gadgetron client writes it, under its name only once it is complete."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import ismrmrd

from gadgets.mrd.dataset import dataset, open_dataset
from pass_recon.common.files import locked, reserve, written_aside
from pass_recon.common.hdf5 import make_room, open_hdf5
from pass_recon.types import InputError

HEADER, PROVENANCE, WRITTEN = "xml", "provenance", "written"

# Room that is asked for before HDF5 is: for its own bookkeeping, in all and for each image, and, as it stores arrays in
# blocks, for up to so many times the image that comes.
_BOOKKEEPING, _IMAGE_BOOKKEEPING, _TIMES = 1 << 18, 1 << 12, 2


def default_group() -> str:
    """The name under which images are stored unless the user gives one: the local time, as the stock client does."""
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")


class _Discarded(Exception):
    """Nothing is to be kept of the file."""


class ImageFile:
    """Collects images in a file beside ``path``, which takes their place when `keep` is called.

    Images of series n go to ``/<group>/image_<n>/{data,header,attributes}``. The group's attributes are the scan's MRD
    header, ``xml``, what `describe` was told, ``provenance``, and a mark of who wrote it, ``written``. What other
    groups of an existing file hold stays, also what others write while the images come; a group of the same name is
    replaced if it was there at the beginning. `append` may be called from another thread.

    Parameters
    ----------
    path
        The file to write.
    group
        Its group; by default the local time.
    header
        MRD header of the scan, which whoever shows the images needs; empty to leave it out.

    Attributes
    ----------
    path, group
        Where the images are; after `keep` the place that they have found.
    images
        Images stored so far.
    kept
        Whether the file is in its place.
    trouble
        A sentence for each thing that could not be done as it was asked for.

    Raises
    ------
    InputError
        If ``path`` exists and is not HDF5, or its folder does not exist.
    """

    def __init__(self, path: str | Path, group: str | None = None, header: bytes = b"") -> None:
        self.path = Path(path)
        self.group = (default_group() if group is None else group).strip("/")
        self.trouble: list[str] = []
        self._header = header
        self._provenance: dict[str, Any] = {}
        self.images = 0
        self.kept = False
        self._lock = threading.Lock()
        self._file: ismrmrd.Dataset | None = None
        self._texts = 0  # bytes, all that is not pixels
        self._full = ""
        if not self.group:
            raise InputError("the output group needs a name")
        if not self.path.parent.is_dir():
            raise InputError(f"the folder of the output file does not exist: {self.path.parent}")
        if self.path.exists() and not h5py.is_hdf5(self.path):
            raise InputError(f"the output file exists and is not HDF5, so nothing can be added to it: {self.path}")
        # Only a group that the user has named, and that was there before, is meant to be replaced.
        self._named, self._before = group is not None, _mark(self.path, self.group)
        self._writing = written_aside(self.path, private=True)
        self._aside = self._writing.__enter__()

    def append(self, image: ismrmrd.Image) -> None:
        """Store one image.

        The members of a series share one array; an image of another shape or type than the first of its series gets an
        array of its own, ``image_<series>_<x>x<y>x<z>x<channels>``.

        Raises
        ------
        InputError
            If there is no room for it on the disk. Those before it are safe.
        """
        texts = self._texts + len(image.attribute_string) + _IMAGE_BOOKKEEPING
        with self._lock:
            try:
                room = _BOOKKEEPING + len(self._header) + texts + self._stored() + _TIMES * image.data.nbytes
                reserve(self._aside, room)
                if self._file is None:
                    h5py.File(self._aside, "w").close()
                    self._file = open_dataset(self._aside, self.group, "a")
                self._file.append_image(self._place(self._file, image), image)
            except OSError as error:
                self._full = self._full or f"no room for all images in {self.path.parent}: {error.strerror or error}"
                raise InputError(self._full) from error
            self._texts = texts
            self.images += 1

    def describe(self, source: str | Path, configuration: Mapping[str, str], messages: Sequence[str]) -> None:
        """Tell where the images come from: name of the scan's file, settings by name, and what was said on the way."""
        from pass_recon import __version__

        told = {"configuration": dict(configuration), "messages": list(messages)}
        self._provenance = {"software": f"pass_recon {__version__}", "source": Path(source).name, **told}

    def keep(self) -> bool:
        """Put the images in their place if there are any.

        Where they cannot be added to an existing file, for it is damaged or the disk is full, they get one of their own
        beside it, and `trouble` says so.

        Returns
        -------
        bool
            Whether there was an image.
        """
        with self._lock:
            self._close()
            if self.images and not self.kept:
                try:
                    self._write_texts()
                except InputError as error:
                    self.trouble.append(f"the images are kept without the header of their scan: {error}")
                self._settle()
                self.kept = True
        self.discard()
        return self.kept

    def discard(self) -> None:
        """Leave nothing behind, and whatever lay at ``path`` as it was."""
        with self._lock:
            self._close()
            if not self.kept:
                self._writing.__exit__(_Discarded, _Discarded(), None)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _settle(self) -> None:
        """The file takes its name, or its group goes into the file that has it: others may have written meanwhile."""
        try:
            with locked(self.path):
                if self.path.exists():
                    self._merge()
                else:
                    self._aside.replace(self.path)
        except (OSError, RuntimeError, InputError) as error:
            own = self.path.with_name(f"{self.path.stem}-{secrets.token_hex(4)}{self.path.suffix}")
            self.trouble.append(f"the images could not be added to {self.path} ({error}); they are in {own}")
            self._aside.replace(own)
            self.path = own
        # What it would rename has gone already.
        self._writing.__exit__(_Discarded, _Discarded(), None)

    def _merge(self) -> None:
        with written_aside(self.path, private=True) as merged, h5py.File(self._aside, "r") as own:
            shutil.copyfile(self.path, merged)
            reserve(merged, self.path.stat().st_size + self._aside.stat().st_size + _BOOKKEEPING)
            with h5py.File(merged, "a") as file:
                name = self._free(file)
                own.copy(self.group, file, name)
        self.group = name

    def _free(self, file: h5py.File) -> str:
        """A name for the group in the file, which has room for it."""
        if self.group not in file:
            return self.group
        if self._named and _mark_of(file[self.group]) == self._before:
            del file[self.group]
            return self.group
        number = next(n for n in range(2, 1 << 31) if f"{self.group} ({n})" not in file)
        if self._named:
            self.trouble.append(
                f"another scan has written the group {self.group!r} of {self.path} meanwhile; "
                f"these images are in {self.group} ({number})"
            )
        return f"{self.group} ({number})"

    def _write_texts(self) -> None:
        # Attributes, as whoever reads the group expects nothing but images in it. Of variable length they may be large.
        provenance = json.dumps(self._provenance) if self._provenance else ""
        make_room(self._aside, self._aside.stat().st_size + 2 * (len(self._header) + len(provenance)))
        with h5py.File(self._aside, "a") as file:
            told = file[self.group].attrs
            told[WRITTEN] = f"{datetime.now().astimezone().isoformat()} {secrets.token_hex(4)}"
            if self._header:
                told.create(HEADER, self._header, dtype=h5py.string_dtype())
            if provenance:
                told.create(PROVENANCE, provenance, dtype=h5py.string_dtype())

    def _stored(self) -> int:
        """Bytes of all pixels so far."""
        if self._file is None or not self.images:
            return 0
        return sum(int(series["data"].id.get_storage_size()) for series in self._file._file[self.group].values())

    def _place(self, file: ismrmrd.Dataset, image: ismrmrd.Image) -> str:
        name = f"image_{image.image_series_index}"
        group = file._file.get(f"{self.group}/{name}")
        if group is None:
            return name
        first = group["header"][0]
        shape = (*image.getHead().matrix_size, image.channels)
        if (*first["matrix_size"], first["channels"]) == shape and first["data_type"] == image.data_type:
            return name
        return f"{name}_{'x'.join(map(str, shape))}"


def _mark(path: Path, group: str) -> str | None:
    """What a group of a file says of who wrote it; None where it is not there."""
    if not path.exists():
        return None
    with open_hdf5(path, "an HDF5 file") as file:
        return _mark_of(file[group]) if group in file else None


def _mark_of(group: h5py.Group) -> str:
    return str(group.attrs.get(WRITTEN, ""))


def read_images(path: str | Path, group: str, series: int) -> list[ismrmrd.Image]:
    """The images of a series, those of another shape last, empty if there is none; raises as `open_hdf5` does."""
    with open_hdf5(path, "a file of images"):  # whatever is wrong with it is said
        pass
    with dataset(path, group, "r") as opened:
        of_series = re.compile(rf"image_{series}(_\d+x.*)?")
        names = sorted(name for name in opened.list() if of_series.fullmatch(name))
        return [opened.read_image(name, number) for name in names for number in range(opened.number_of_images(name))]
