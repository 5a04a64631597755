"""What the monitor page of a running server is made of: the page, and a scan's newest image as a picture."""

from __future__ import annotations

import io

from pass_recon.report.html import NOTICE, rendered
from pass_recon.report.overlay import grey_levels, readable_overlay
from pass_recon.report.scan import SliceRecord

_LEAST = 400  # pixels of its shorter side


def monitor_page() -> bytes:
    """The page; what it shows it asks the server for, and nobody else."""
    return rendered("monitor").encode()


def live_picture(one: SliceRecord) -> bytes:
    """PNG of a slice with its map and findings, in the shape that its pixels have in mm."""
    from PIL import Image

    orientation = one.geometry.orientation
    grey = grey_levels(one.levels, one.window)
    picture = readable_overlay(
        grey, one.anomaly_map, one.findings, orientation=orientation, notice=NOTICE, least=_LEAST
    )
    rows, columns = orientation.turn(grey).shape
    row_mm, column_mm = one.geometry.pixel_mm(grey.shape)[:: -1 if orientation.transposed else 1]
    ratio = columns * column_mm / (rows * row_mm) if row_mm > 0 and column_mm > 0 else columns / rows
    size = max(round(len(picture) * min(ratio, 4.0)), 1), len(picture)
    scaled = Image.fromarray(picture).resize(size)
    file = io.BytesIO()
    scaled.save(file, format="png", compress_level=1)
    return file.getvalue()
