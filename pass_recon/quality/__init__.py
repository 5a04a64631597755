"""Quality of data and images: what is finite but wrong is seen, named and left out."""

from pass_recon.quality.inspection import Inspection, inspect
from pass_recon.quality.training import TrainedFor

# Of a `pass_recon.types.QualityFinding`. The last three come from the guard, all others from the data.
WORDS = (
    "empty",
    "dead_coil",
    "wild_coil",
    "noise_coil",
    "spike",
    "zero_lines",
    "missing_lines",
    "inconsistent_lines",
    "multiband",
    "unusual_matrix",
    "unusual_lines",
    "lines_not_predicted",
    "network_worse_than_classical",
    "finding_not_in_data",
)

__all__ = ["WORDS", "Inspection", "TrainedFor", "inspect"]
