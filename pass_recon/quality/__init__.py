"""Quality of data and images: what is finite but wrong is seen, named and left out."""

from pass_recon.quality.inspection import Inspection, inspect
from pass_recon.quality.training import TrainedFor

__all__ = ["Inspection", "TrainedFor", "inspect"]
