"""Which of the shipped bundles is for a scan."""

from __future__ import annotations

import math

from pass_recon.sampling.budget import LEAST_ACCELERATION, MOST_ACCELERATION


def nearest_bundle(examination: str, acceleration: float) -> str | None:
    """The shipped bundle of an examination whose acceleration is the nearest as a ratio; None if there is none.

    One that ranks all lines serves any acceleration from 2 to 10, others only their own.
    """
    from pass_recon.bundles import shipped_bundles

    offered = {name: float(name.rpartition("-")[2].rstrip("x")) for name in shipped_bundles()
               if name.rpartition("-")[0] == examination}  # fmt: skip
    served = LEAST_ACCELERATION <= acceleration <= MOST_ACCELERATION or acceleration in offered.values()
    if not offered or not served:
        return None
    return min(offered, key=lambda name: abs(math.log(offered[name] / acceleration)))
