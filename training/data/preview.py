"""Slices of a prepared dataset to look at: a few of each group, with findings first."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from pass_recon.phantom.draws import mixed_seed
from pass_recon.report.contact_sheet import Tile
from training.data.case_file import ABNORMAL, NORMAL, SUFFIX, CaseFile
from training.data.manifest import read_manifest

_WORDS = {ABNORMAL: "abnormal", NORMAL: "normal"}


def preview_tiles(folder: str | Path, count: int = 24, *, seed: int = 0) -> list[Tile]:
    """Choose slices, the same number of each source, anatomy and contrast, two of three with a box where there are any.

    fastMRI's images lie upside down in its arrays; they are shown upright, as they were annotated.

    Parameters
    ----------
    folder
        A prepared dataset.
    count
        About how many.
    seed
        Another seed, other slices.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for entry in read_manifest(folder)["cases"]:
        groups[entry["anatomy"], entry["contrast"], entry["source"]].append(entry)
    tiles = []
    for _, entries in sorted(groups.items()):
        share = max(count // len(groups), 1)
        order = sorted(entries, key=lambda entry: mixed_seed(seed, entry["name"]))
        tiles += _of_group(Path(folder), order, share, seed)
    return tiles


def _of_group(folder: Path, entries: list[dict[str, Any]], count: int, seed: int) -> list[Tile]:
    """Go round the cases, a slice of each at a time, until there are enough."""
    tiles: list[Tile] = []
    for turn in range(count):
        for entry in entries:
            if len(tiles) == count:
                return tiles
            with CaseFile(folder / (entry["name"] + SUFFIX)) as case:
                index = _choose(case, turn, seed, boxed=len(tiles) % 3 < 2)
                if index is not None:
                    tiles.append(_tile(case, index, entry["split"]))
    return tiles


def _choose(case: CaseFile, turn: int, seed: int, *, boxed: bool) -> int | None:
    # Slices from the middle of the volume show most.
    middle = range(len(case) // 6, len(case) - len(case) // 6)
    with_boxes = [index for index, record in enumerate(case.records) if record.boxes or record.remarks]
    places = with_boxes if boxed and with_boxes else list(middle)
    order = sorted(places, key=lambda index: mixed_seed(seed, case.info.name, index))
    return order[turn] if turn < len(order) else None


def _tile(case: CaseFile, index: int, split: str) -> Tile:
    record = case.records[index]
    tile = Tile(
        image=case.image(index).abs().numpy(),
        boxes=record.boxes,
        remarks=record.remarks,
        title=f"{case.info.name}  slice {record.origin_slice}",
        note=f"{case.info.anatomy} {case.info.contrast} · {split} · {_WORDS.get(record.label, 'unlabelled')}",
    )
    return tile.upside_down() if case.info.source == "fastmri" else tile
