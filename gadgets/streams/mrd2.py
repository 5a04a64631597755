"""MRD version 2 streams, through mrd-python (extra ``mrd2``), as Tyger pipes them.

Version 2 has the content of version 1 under other spellings: ``encodedSpace`` is ``encoded_space``, ``TR`` is ``t_r``.
What is said below of one version by names is found in the other by their letters alone.
"""

from __future__ import annotations

import io
import typing
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, BinaryIO

import ismrmrd
import numpy as np
from ismrmrd import xsd

from gadgets.offline import Account, reconstructed
from gadgets.properties import Properties
from gadgets.protocol.connection import Failure
from pass_recon.types import InputError

_COUNTERS = (
    "kspace_encode_step_1",
    "kspace_encode_step_2",
    "average",
    "slice",
    "contrast",
    "phase",
    "repetition",
    "set",
    "segment",
)
_NUMBERS = (
    "measurement_uid",
    "scan_counter",
    "acquisition_time_stamp",
    "discard_pre",
    "discard_post",
    "center_sample",
    "encoding_space_ref",
    "sample_time_us",
)
_DIRECTIONS = ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")
_LISTS = ("physiology_time_stamp", "user_int", "user_float")
_IMAGE_NUMBERS = (
    "measurement_uid",
    "average",
    "slice",
    "contrast",
    "phase",
    "repetition",
    "set",
    "acquisition_time_stamp",
    "image_index",
    "image_series_index",
)
_KINDS = {"uint16": "ImageUint16", "uint32": "ImageUint32", "float32": "ImageFloat", "complex64": "ImageComplexFloat"}


def stream(source: BinaryIO, sink: BinaryIO, properties: Properties, account: Account) -> None:
    """Reconstruct what comes, and write each image as soon as it is made, after the header.

    Parameters
    ----------
    source, sink
        Streams of version 2. Of what comes only acquisitions are used.
    properties
        Of the chain.
    account
        Is told what went wrong. A stream that breaks off is a fault, but what came is reconstructed.

    Raises
    ------
    InputError
        If mrd-python is missing, or it is no such stream, or one without a header.
    """
    try:
        import mrd
    except ImportError:
        raise InputError("streams of MRD 2 need mrd-python: pip install 'pass-gadgetron[mrd2]'") from None
    try:
        reader = mrd.BinaryMrdReader(io.BufferedReader(source) if isinstance(source, io.RawIOBase) else source)
        header = reader.read_header()
    except (RuntimeError, ValueError, EOFError, KeyError) as error:
        raise InputError(f"this is no stream of MRD 2: {error or type(error).__name__}") from error
    if header is None:
        raise InputError("the stream has no MRD header")
    lines = _acquisitions(reader.read_data(), account)
    with mrd.BinaryMrdWriter(sink) as writer:
        writer.write_header(header)
        for image in reconstructed(lines, header_xml(header), properties, account):
            writer.write_data([_image(image)])
            sink.flush()


def header_xml(header: Any) -> bytes:
    """The header of version 1, as XML, of one of version 2."""
    return str(xsd.ToXML(_converted(header, xsd.ismrmrdHeader))).encode()


def acquisition(of: Any) -> ismrmrd.Acquisition:
    """The acquisition of version 1 of one of version 2, with its data ``(coils, samples)``."""
    made = ismrmrd.Acquisition.from_array(np.ascontiguousarray(of.data, np.complex64))
    if of.trajectory.size:
        made.resize(*of.data.shape[::-1], trajectory_dimensions=of.trajectory.shape[0])
        made.data[:] = of.data
        made.traj[:] = of.trajectory.T
    head = made.getHead()
    head.flags = int(of.head.flags)
    for name in _NUMBERS:
        setattr(head, name, getattr(of.head, name) or 0)
    for name in _DIRECTIONS:
        getattr(head, name)[:] = np.asarray(getattr(of.head, name), np.float32).tolist()
    for name in _LISTS:
        values, into = getattr(of.head, name), getattr(head, name)
        into[: len(values)] = list(values)[: len(into)]
    for name in _COUNTERS:
        setattr(head.idx, name, getattr(of.head.idx, name) or 0)
    made.setHead(head)
    return made


def _acquisitions(items: Iterable[Any], account: Account) -> Iterator[ismrmrd.Acquisition]:
    try:
        for item in items:
            if type(item).__name__.endswith("Acquisition"):
                yield acquisition(item.value)
    except (EOFError, RuntimeError, ValueError) as error:
        account.failures.append(Failure(f"the stream breaks off: {error or type(error).__name__}", "input"))


def _image(of: ismrmrd.Image) -> Any:
    """The stream item of version 2 that holds an image of version 1."""
    import mrd

    # Version 2 knows no type for red, green and blue: three channels are what they are.
    kind = of.image_type if of.image_type in set(mrd.ImageType) else ismrmrd.IMTYPE_MAGNITUDE
    head = mrd.ImageHeader(image_type=mrd.ImageType(kind), flags=mrd.ImageFlags(int(of.flags)))
    for name in _IMAGE_NUMBERS:
        setattr(head, name, int(getattr(of, name)))
    places = ("field_of_view", "position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")
    theirs = ("field_of_view", "position", "col_dir", "line_dir", "slice_dir", "patient_table_position")
    for name, called in zip(places, theirs, strict=True):
        setattr(head, called, np.array(list(getattr(of, name)), np.float32))
    for name in _LISTS:
        setattr(head, name, list(getattr(of, name)))
    meta = {
        name: [mrd.ImageMetaValue.String(str(one)) for one in (value if isinstance(value, list) else [value])]
        for name, value in of.meta.items()
    }
    item = getattr(mrd.StreamItem, _KINDS[of.data.dtype.name])
    return item(mrd.Image(head=head, data=np.ascontiguousarray(of.data), meta=meta))


def _letters(name: str) -> str:
    return name.replace("_", "").lower()


def _converted(value: Any, kind: Any) -> Any:
    """A value of version 2 as one of the types of version 1's schema; what that does not have is left out."""
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        theirs = {_letters(name): one for name, one in vars(value).items()}
        given = {}
        for field in fields(kind):
            found = theirs.get(_letters(field.name))
            if found is not None and found != []:
                given[field.name] = _field(found, hints[field.name])
            elif typing.get_origin(hints[field.name]) is list:
                given[field.name] = []
        return kind(**given)  # type: ignore[operator]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(one for one in kind if _letters(one.name) == _letters(value.name))
    return str(value) if not isinstance(value, int | float | str | bytes) else value


def _field(value: Any, hint: Any) -> Any:
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) is list:
        return [_converted(one, parts[0]) for one in value]
    return _converted(value, parts[0] if parts else hint)
