"""A scan that is not under way any more: its messages through the chain, into a file of images, with what was said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ismrmrd import Acquisition, Image

from gadgets.chain import run_chain
from gadgets.converters.image_file import ImageFile
from gadgets.mrd import bundle_of, remarks, sentences
from gadgets.mrd.images import Remark
from gadgets.mrd.scan_file import ScanFile
from gadgets.properties import Properties, as_texts
from gadgets.protocol.connection import Failure
from pass_recon.common.memory import keep_to_what_was_told
from pass_recon.common.process import prepare_process
from pass_recon.types import InputError, PassError


@dataclass
class Account:
    """What came of a scan beside its images.

    Attributes
    ----------
    failures
        What went wrong, as the chain told it.
    remarks
        What the images say of themselves.
    bundle
        Which networks were used.
    images
        How many there are.
    """

    failures: list[Failure] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    bundle: str = ""
    images: int = 0

    @property
    def failed(self) -> bool:
        """Whether anything was at fault, or nothing was made."""
        return not self.images or any(failure.severity != "warning" for failure in self.failures)

    @property
    def all(self) -> list[Failure]:
        """What is to be said: the failures, then what the images say and no failure has said."""
        told = [failure.message for failure in self.failures]
        return [*self.failures, *(Failure(sentence, "warning") for sentence in sentences(self.remarks, told))]


def reconstructed(
    acquisitions: Iterable[Acquisition], header: bytes | str, properties: Properties, account: Account
) -> Iterator[Image]:
    """The images of the chain; what goes wrong is noted in ``account``, and what was made before it is not lost."""
    try:
        for item in run_chain(acquisitions, header, properties):
            if isinstance(item, Failure):
                account.failures.append(item)
            else:
                account.remarks += remarks(item)
                account.bundle = account.bundle or bundle_of(item)
                account.images += 1
                yield item
    except PassError as error:  # the images that were made before are images all the same
        account.failures.append(Failure(str(error), "input"))
    except MemoryError as error:
        account.failures.append(Failure(f"the scan needs more memory than is allowed (--max-memory): {error}", "input"))


@dataclass(frozen=True)
class FileJob:
    """A file to reconstruct.

    Attributes
    ----------
    source, in_group
        MRD file, and the group of the scan.
    target, out_group
        File of images, and their group, by default the local time.
    properties
        Of the stages.
    """

    source: Path
    target: Path
    properties: Properties
    in_group: str = "dataset"
    out_group: str | None = None


@dataclass(frozen=True)
class FileOutcome:
    """What came of a `FileJob`.

    Attributes
    ----------
    file, group
        Where the images are; None if there are none.
    images
        How many.
    bundle
        Which networks were used.
    messages
        What is to be said.
    failed
        Whether anything was at fault.
    """

    source: Path
    file: Path | None = None
    group: str = ""
    images: int = 0
    bundle: str = ""
    messages: tuple[Failure, ...] = ()
    failed: bool = True


def reconstruct_file(
    job: FileJob, lines_of: Callable[[ScanFile], Iterable[Acquisition]] = ScanFile.acquisitions
) -> FileOutcome:
    """Reconstruct an MRD file.

    Whatever can be made of it is kept.

    Parameters
    ----------
    job
        What to reconstruct.
    lines_of
        The acquisitions of a file, to show how far they are.

    Raises
    ------
    InputError
        If the file cannot be read at all, or there is no place for the images.
    """
    with ScanFile(job.source, job.in_group) as source:
        return reconstruct_into_file(job, lines_of(source), source.header_xml)


def reconstruct_into_file(job: FileJob, acquisitions: Iterable[Acquisition], header: bytes) -> FileOutcome:
    """The same with acquisitions and a header that have been read off the source otherwise."""
    account = Account()
    output = ImageFile(job.target, job.out_group, header)
    try:
        for image in reconstructed(acquisitions, header, job.properties, account):
            _store(image, output, account.failures)
    finally:
        said = [failure.message for failure in account.failures]
        output.describe(str(job.source), as_texts(job.properties), said)
        output.keep()
        account.failures += [Failure(sentence, "input") for sentence in output.trouble]
    return FileOutcome(
        job.source,
        output.path if output.kept else None,
        output.group,
        output.images,
        account.bundle,
        tuple(account.all),
        account.failed or not output.kept,
    )


def archived(job: FileJob) -> FileOutcome:
    """`reconstruct_file` among many, perhaps in another process; a file that cannot be read is an outcome, too."""
    prepare_process()
    keep_to_what_was_told()
    try:
        return reconstruct_file(job)
    except (PassError, OSError) as error:
        return FileOutcome(job.source, messages=(Failure(str(error), "input"),))


def _store(image: Image, output: ImageFile, failures: list[Failure]) -> None:
    """Append an image; where the disk is full that is said once, and a smaller one may still fit."""
    try:
        output.append(image)
    except InputError as error:
        if (failure := Failure(str(error), "input")) not in failures:
            failures.append(failure)
