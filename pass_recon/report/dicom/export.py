"""The DICOM files of a scan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pydicom.dataset import Dataset

from pass_recon.common.files import written_aside
from pass_recon.report.dicom.capture import captures
from pass_recon.report.dicom.findings import segmentations, structured_report
from pass_recon.report.dicom.mr import Frame, classic_images, enhanced_images
from pass_recon.report.dicom.study import Study
from pass_recon.report.scan import ScanRecord

_FOLDERS = ("magnitude", "overlay", "findings", "report")


def dicom_objects(
    scan: ScanRecord,
    *,
    enhanced: bool = False,
    keep_identity: bool = False,
    radiological: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Dataset]:
    """All objects by the path of their file: ``magnitude``, ``overlay``, ``findings`` (if there are) and ``report``.

    Parameters
    ----------
    scan
        The scan.
    enhanced
        Enhanced MR Image Storage and not MR Image Storage.
    keep_identity
        Take names, numbers and dates of the MRD header over.
    radiological
        Turn images by right angles into the customary view.
    progress
        Called twice for each slice.
    """
    study = Study(scan, keep_identity=keep_identity, radiological=radiological)
    stacks = enhanced_images(study) if enhanced else classic_images(study)
    frames = [frame for stack in stacks for frame in stack]
    images = list({str(frame.image.SOPInstanceUID): frame.image for frame in frames}.values())
    segments = segmentations(study, stacks)
    return (
        _numbered("magnitude", images)
        | _numbered("overlay", captures(study, _counted(frames, progress)))
        | _numbered("findings", segments)
        | _numbered("report", [structured_report(study, _counted(frames, progress), segments)])
    )


def _counted(frames: Iterable[Frame], progress: Callable[[], object]) -> Iterator[Frame]:
    for frame in frames:
        yield frame
        progress()


def write_dicom(
    folder: str | Path, objects: dict[str, Dataset], *, progress: Callable[[], object] | None = None
) -> list[Path]:
    """Write the files; what an earlier export left in these folders, and is not in this one, goes.

    Returns
    -------
    list of Path
        The files, in the order of the objects.
    """
    folder = Path(folder)
    written = []
    for name, data in objects.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path, private=True) as aside:
            data.save_as(aside, enforce_file_format=True)
        written.append(path)
        if progress is not None:
            progress()
    for kind in _FOLDERS:
        for stale in set((folder / kind).glob("[0-9][0-9][0-9][0-9].dcm")) - set(written):
            stale.unlink()
    return written


def _numbered(kind: str, objects: list[Dataset]) -> dict[str, Dataset]:
    return {f"{kind}/{number:04}.dcm": data for number, data in enumerate(objects, start=1)}
