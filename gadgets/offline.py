"""A scan that is not under way any more: its messages through the chain, into a file of images, with what was said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ismrmrd import Acquisition, Image

from gadgets.chain import run_chain
from gadgets.mrd import bundle_of, remarks, sentences
from gadgets.properties import Properties
from gadgets.protocol.connection import Failure
from pass_recon.types import PassError


@dataclass
class Account:
    """What came of a scan beside its images.

    Attributes
    ----------
    failures
        What went wrong, and what is to be known of the images.
    bundle
        Which networks were used.
    images
        How many there are.
    """

    failures: list[Failure] = field(default_factory=list)
    bundle: str = ""
    images: int = 0

    @property
    def failed(self) -> bool:
        """Whether anything was at fault, or nothing was made."""
        return not self.images or any(failure.severity != "warning" for failure in self.failures)


def reconstructed(
    acquisitions: Iterable[Acquisition], header: bytes | str, properties: Properties, account: Account
) -> Iterator[Image]:
    """The images of the chain; what goes wrong is noted in ``account``, and what was made before it is not lost."""
    said: list[Any] = []
    try:
        for item in run_chain(acquisitions, header, properties):
            if isinstance(item, Failure):
                account.failures.append(item)
            else:
                said += remarks(item)
                account.bundle = account.bundle or bundle_of(item)
                account.images += 1
                yield item
    except PassError as error:
        account.failures.append(Failure(str(error), "input"))
    told = [failure.message for failure in account.failures]
    untold = (remark for remark in said if not any(remark.text in message for message in told))
    account.failures += [Failure(sentence, "warning") for sentence in sentences(untold)]
