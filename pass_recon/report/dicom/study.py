"""What all DICOM objects of a scan share: patient, study, frame of reference, equipment, and identifiers.

Identifiers are made from what is in the scan: the same scan always has the same ones, so that a PACS that gets it twice
has it once. By default nobody is named: what the MRD header says of patient, study, institution and dates is left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from pass_recon import __version__
from pass_recon.report.orientation import AS_ACQUIRED, Orientation
from pass_recon.report.scan import ScanRecord, SliceRecord, Subject

SOFTWARE = "PASS for Gadgetron"
NOTICE = "Research software, not for clinical use"
_UID = re.compile(r"[0-2](\.(0|[1-9]\d*))+")
# DICOM's defined terms by anatomy, and codes of SNOMED CT.
BODY_PARTS = {"brain": ("BRAIN", "12738006", "Brain"), "knee": ("KNEE", "72696002", "Knee")}
ANYWHERE = ("", "38866009", "Body part")


class Study:
    """One export of a scan.

    Parameters
    ----------
    scan
        The scan.
    keep_identity
        Take names, numbers and dates of the MRD header over.
    radiological
        Turn images by right angles into the customary view; otherwise rows and columns are those of the acquisition.
    """

    def __init__(self, scan: ScanRecord, *, keep_identity: bool = False, radiological: bool = False) -> None:
        self.scan, self.keep_identity, self._radiological = scan, keep_identity, radiological
        self.subject = scan.subject if keep_identity else Subject()
        self._content = _digest(scan)
        self._origin = hashlib.sha256(scan.header).hexdigest() if scan.header else self._content
        self.uid = _valid_uid(self.subject.study_uid) or _uid("study", self._origin)
        self.frame_of_reference = _valid_uid(self.subject.frame_of_reference_uid) or _uid("frame", self._origin)

    def uid_of(self, *what: object) -> str:
        """The identifier of a series, an object or whatever else, by what it is."""
        kind = f"identity {self.keep_identity}, radiological {self._radiological}"
        return _uid(self._content, kind, *(str(part) for part in what))

    def orientation(self, one: SliceRecord) -> Orientation:
        """How the pixels of a slice are stored."""
        return one.geometry.orientation if self._radiological else AS_ACQUIRED

    @property
    def body_part(self) -> tuple[str, str, str]:
        """DICOM's term, SNOMED CT code and its meaning of what was examined."""
        examined = self.scan.protocol.examination if self.scan.protocol else ""
        return BODY_PARTS.get(examined.partition("-")[0], ANYWHERE)

    @property
    def may_be_paired(self) -> bool:
        """Whether the part has a left and a right one, or is unknown."""
        return self.body_part[0] != "BRAIN"

    @property
    def vendor(self) -> str:
        """Of the scanner, or that it is not told."""
        return (self.scan.protocol.vendor if self.scan.protocol else "") or "unknown"

    def dataset(self, sop_class: str, instance_uid: str) -> Dataset:
        """An object with what every object of the study has."""
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.MediaStorageSOPClassUID = UID(sop_class)
        data.file_meta.MediaStorageSOPInstanceUID = UID(instance_uid)
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SpecificCharacterSet = "ISO_IR 192"
        data.SOPClassUID, data.SOPInstanceUID = sop_class, instance_uid
        self._patient(data)
        self._study(data)
        data.Manufacturer = plain(self.vendor)
        data.ManufacturerModelName = plain((self.scan.protocol.model if self.scan.protocol else "") or "unknown")
        if self.subject.institution:
            data.InstitutionName = plain(self.subject.institution)
        if self.subject.station:
            data.StationName = plain(self.subject.station, 16)
        data.SoftwareVersions = f"pass_recon {__version__}"
        data.ContributingEquipmentSequence = DicomSequence([_equipment()])
        return data

    def _patient(self, data: Dataset) -> None:
        subject = self.subject
        data.PatientName = plain(subject.name) or ("" if self.keep_identity else f"PASS^{self._origin[:8]}")
        data.PatientID = plain(subject.identifier) or f"PASS-{self._origin[:12]}"
        data.PatientBirthDate = subject.birth_date
        data.PatientSex = subject.sex.upper()[:1] if subject.sex.upper()[:1] in ("M", "F", "O") else ""
        if subject.weight_kg is not None:
            data.PatientWeight = number(subject.weight_kg)
        if not self.keep_identity:
            data.PatientIdentityRemoved = "YES"
            data.DeidentificationMethod = "MRD header left out: patient, study, site, dates"
            data.LongitudinalTemporalInformationModified = "REMOVED"

    def _study(self, data: Dataset) -> None:
        subject = self.subject
        data.StudyInstanceUID = self.uid
        data.StudyDate, data.StudyTime = subject.study_date, subject.study_time
        data.StudyID = plain(subject.study_id, 16) or "PASS"
        data.AccessionNumber = plain(subject.accession_number, 16)
        data.ReferringPhysicianName = plain(subject.referring_physician)
        if subject.study_description:
            data.StudyDescription = plain(subject.study_description)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """A coded entry."""
    data = Dataset()
    data.CodeValue, data.CodingSchemeDesignator, data.CodeMeaning = value, scheme, meaning[:64]
    return data


def number(value: float) -> DSfloat:
    """A decimal string of DICOM, which has 16 characters."""
    return DSfloat(float(value), auto_format=True)


def axes(read: Sequence[float], phase: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal directions along readout and phase encoding; x and y where the header tells none."""
    first, second = np.array(read, float), np.array(phase, float)
    if np.linalg.norm(np.cross(first, second)) < 1e-6:
        return np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    first = first / np.linalg.norm(first)
    second = second - (second @ first) * first
    return first, second / np.linalg.norm(second)


def _equipment() -> Dataset:
    data = Dataset()
    data.PurposeOfReferenceCodeSequence = DicomSequence([code("109102", "DCM", "Processing Equipment")])
    data.Manufacturer = SOFTWARE
    data.ManufacturerModelName = "PASS"
    data.SoftwareVersions = f"pass_recon {__version__}"
    data.ContributionDescription = NOTICE
    return data


def _digest(scan: ScanRecord) -> str:
    """Of what the scan shows and where; not of latencies, which differ whenever it is reconstructed again."""
    digest = hashlib.sha256(scan.header)
    for one in scan.slices:
        digest.update(repr((one.key, one.levels.shape, one.geometry, one.findings, one.method)).encode())
        digest.update(np.ascontiguousarray(one.levels).tobytes())
        if one.anomaly_map is not None:
            digest.update(np.ascontiguousarray(one.anomaly_map).tobytes())
    return digest.hexdigest()


def _uid(*parts: str) -> str:
    """An identifier under the root of UUIDs, which needs no registration."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _valid_uid(text: str) -> str:
    return text if _UID.fullmatch(text) and len(text) <= 64 else ""


def plain(text: str, length: int = 64) -> str:
    """A text as DICOM takes it: so many characters, on one line, and no backslash, which would part it in two."""
    return "".join(letter if letter.isprintable() and letter != "\\" else " " for letter in text)[:length].strip()
