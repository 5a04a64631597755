"""The figures of an evaluation: which groups share one, and which slice stands for the others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from pass_recon.report.evaluation import Example, Panel, Series, write_bars, write_example
from training.data.run import in_parallel
from training.evaluate.jobs import Job, images_of
from training.evaluate.methods import METHODS, PASS
from training.evaluate.records import Record
from training.evaluate.summary import value

_SHOWN = ("zero-filled", "l1-wavelet", "population", PASS)


def draw(
    output: Path,
    groups: Sequence[Mapping[str, Any]],
    records: Sequence[Record],
    jobs: Mapping[str, Job],
    how: Mapping[str, Any],
) -> list[str]:
    """Draw bars and an example slice for every dataset and bundle.

    Parameters
    ----------
    output
        Folder to draw into.
    groups, records
        The results.
    jobs
        The jobs of the records, by their key.
    how
        Arguments of `in_parallel`: the examples are reconstructed once more, as records hold no images.

    Returns
    -------
    list of str
        Names of the files.
    """
    names = []
    pairs = list(dict.fromkeys((group["dataset"], group["bundle"]) for group in groups))
    for dataset, bundle in pairs:
        members = [group for group in groups if (group["dataset"], group["bundle"]) == (dataset, bundle)]
        names.append(f"bars_{_slug(dataset)}_{_slug(bundle)}.png")
        write_bars(output / names[-1], _panels(members), title=f"{bundle} on {dataset}")
    examples = [job for pair in pairs if (job := _example(pair, records, jobs)) is not None]
    with closing(in_parallel(images_of, examples, lambda *_: None, unit="figure", **how)) as found:
        for images in found:
            if images is not None:
                names.append(_draw_example(output, images))
    return sorted(names)


def _panels(groups: Sequence[Mapping[str, Any]]) -> list[Panel]:
    methods = [name for name in METHODS if any(name in group["methods"] for group in groups)]
    panels = []
    for heading, inside in (("whole image", False), ("inside lesion boxes", True)):
        series = []
        for group in groups:
            found = [group["methods"].get(name) for name in methods]
            values = [None if item is None else (item["inside"] if inside else item)["psnr"] for item in found]
            noise = "measured noise" if group["noise"] is None else f"σ = {group['noise']:g}"
            series.append(Series(noise, [_bar(item) for item in values]))
        if any(bar is not None for item in series for bar in item.bars):
            panels.append(Panel(f"PSNR in dB, {heading}", [METHODS[name].title for name in methods], series))
    return panels


def _bar(interval: Mapping[str, Any] | None) -> tuple[float, float, float] | None:
    if interval is None:
        return None
    mean = interval["mean"]
    return mean, *(mean if interval[end] is None else interval[end] for end in ("low", "high"))


def _example(pair: tuple[str, str], records: Sequence[Record], jobs: Mapping[str, Job]) -> Job | None:
    """The slice whose lesions PASS shows with median quality, at the lowest noise: neither its best nor its worst."""
    members = [
        record for record in records if (record["dataset"], record["bundle"]) == pair and PASS in record["methods"]
    ]
    if not members:
        return None
    least = min((record["noise"] for record in members if record["noise"] is not None), default=None)
    members = [record for record in members if record["noise"] == least]
    inside = any(record["lesions"] for record in members)
    ranked = sorted(
        (record for record in members if record["lesions"] or not inside),
        key=lambda record: (value(record, PASS, "psnr", inside), record["key"]),
    )
    job = jobs[ranked[len(ranked) // 2]["key"]]
    return replace(job, methods=tuple(name for name in job.methods if name in _SHOWN))


def _draw_example(output: Path, images: Mapping[str, Any]) -> str:
    subject = images["subject"]
    name = f"example_{_slug(subject.dataset)}_{_slug(images['bundle'])}.png"
    noise = "measured noise" if images["noise"] is None else f"σ = {images['noise']:g}"
    shown = {METHODS[method].title: images[method] for method in METHODS if method in images}
    title = f"{images['bundle']} on {subject.dataset}: {subject.case}, slice {subject.index}, {noise}"
    write_example(output / name, Example(images["truth"], shown, images["boxes"]), title=title)
    return name


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "bundle"
