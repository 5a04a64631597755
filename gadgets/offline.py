"""A scan that is not under way any more: its messages through the chain, into a file of images, with what was said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ismrmrd import Acquisition, Image

from gadgets.chain import run_chain
from gadgets.mrd import bundle_of, remarks, sentences
from gadgets.mrd.images import Remark
from gadgets.properties import Properties
from gadgets.protocol.connection import Failure
from pass_recon.types import PassError


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
