"""The results for people: a page of Markdown tables, bars, curves, and one example slice of each dataset and bundle."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from pass_recon.common.parallel import in_parallel
from pass_recon.report.evaluation import Example, Panel, Series, write_bars, write_example, write_free_response
from training.evaluate.grids import grids_text
from training.evaluate.lesion_detection import REPORTED, free_response_table
from training.evaluate.measures import Job, Record, images_of
from training.evaluate.methods import METHODS, PASS
from training.evaluate.statistics import value

Group = Mapping[str, Any]
_MISSING = "–"
_NOTES = (
    "Intervals are 95 %, by bootstrap over patients. Peak and data range are max|x| of each slice's ground truth; "
    "nothing is min–max scaled. Lesion: inside the boxes, at least 16 pixels wide, padded by 4; a slice's lesions "
    "count once together. σ: noise of a complex sample of one coil, as a fraction of the volume's peak. Times: medians."
)


def markdown(results: Mapping[str, Any]) -> str:
    """The page.

    Parameters
    ----------
    results
        What ``results.json`` holds.
    """
    settings = results["settings"]
    parts = [
        "# Evaluation",
        f"    {results['command']}" if results["command"] else "",
        f"Coil maps: {settings['maps']}; the intensity scale comes from the ACS. Split: {settings['split']}. " + _NOTES,
    ]
    for dataset in _unique(group["dataset"] for group in results["groups"]):
        parts.append(f"## {dataset}")
        members = [group for group in results["groups"] if group["dataset"] == dataset]
        parts += _overview(sorted(members, key=lambda group: (group["anatomy"], group["contrast"], *_order(group))))
        for examination in _unique((group["anatomy"], group["contrast"]) for group in members):
            same = [group for group in members if (group["anatomy"], group["contrast"]) == examination]
            parts += _of_examination(examination, sorted(same, key=_order))
    parts += _remarks(results)
    return "\n\n".join(part for part in parts if part) + "\n"


def _overview(groups: Sequence[Group]) -> list[str]:
    """Two tables of all examinations, a row a group."""
    return [
        "PSNR in dB / SSIM of whole images",
        _images(groups),
        "PSNR of PASS, and by how much it is over that of others, in dB",
        _gains(groups),
    ]


def _images(groups: Sequence[Group]) -> str:
    methods = _methods(groups)
    rows = []
    for group in groups:
        found = [group["methods"].get(method) for method in methods]
        cells = [f"{_mean(item['psnr'], 2)} / {_mean(item['ssim'], 3)}" if item else _MISSING for item in found]
        rows.append([group["bundle"], _noise(group["noise"]), *cells])
    return table_text(["bundle", "noise", *(METHODS[method].title for method in methods)], rows)


def _gains(groups: Sequence[Group]) -> str:
    columns = {
        "bundle": [group["bundle"] for group in groups],
        "noise": [_noise(group["noise"]) for group in groups],
        "patients": [str(group["patients"]) for group in groups],
        "PASS": [interval_text((group["methods"].get(PASS) or {}).get("psnr")) for group in groups],
    }
    for method in _unique(name for group in groups for name in group["differences"]):
        for where, title in _WHERE.items():
            columns[f"over {METHODS[method].title}, {title}"] = [_difference(group, method, where) for group in groups]
    for key, title in (("from_population", "population's"), ("from_lesion_free", "same patient's without lesions")):
        columns[f"lines unlike the {title}"] = [interval_text((group["plans"] or {}).get(key), 1) for group in groups]
    told = {title: cells for title, cells in columns.items() if set(cells) != {_MISSING}}
    return table_text(list(told), zip(*told.values(), strict=True))


def _of_examination(examination: tuple[str, str], groups: Sequence[Group]) -> list[str]:
    heads = _heads(groups)
    sizes = ", ".join(
        f"{head}: {group['slices']} slices of {group['patients']} patients, {group['lesions']} lesions on "
        f"{group['slices_with_lesions']} slices"
        for head, group in zip(heads, groups, strict=True)
    )
    on = [
        f"{head}: {grids_text(group['grids'])}" for head, group in zip(heads, groups, strict=True) if "grids" in group
    ]
    parts = [f"### {' '.join(examination)}", sizes, *on, _quality(heads, groups)]
    if any(group["differences"] for group in groups):
        parts += ["PSNR of PASS minus that of another, in dB", _differences(heads, groups)]
    if any(group["detection"] for group in groups):
        parts += ["Detection, on the reconstruction and on the ACS image", _detection(heads, groups)]
    if any(group.get("by_lesion") for group in groups):
        found = {head: group.get("by_lesion") for head, group in zip(heads, groups, strict=True)}
        parts += [
            "Lesion by lesion, in the image of PASS: lesions found at so many false boxes an image, and the right name "
            f"of those found at {REPORTED:g}",
            free_response_table(found),
            *(
                f"![curves]({_curves(*pair)})"
                for pair in _unique((group["dataset"], group["bundle"]) for group in groups)
            ),
        ]
    if any(group.get("faint") for group in groups):
        parts += [
            "Faint blobs, discs and irregular ones of 3 to 12 % of the peak: recovery of their contrast by radius in "
            "pixels and by contrast, and d′ of a matched observer by radius",
            _faint(heads, groups),
        ]
    if any(group["plans"] for group in groups):
        parts += ["By how many lines plans differ", _plans(heads, groups)]
    return [*parts, "Seconds of a slice", _seconds(heads, groups)]


def _quality(heads: Sequence[str], groups: Sequence[Group]) -> str:
    columns = [f"{head} {what}" for head in heads for what in ("PSNR", "SSIM", "lesion PSNR")]
    rows = []
    for name in _methods(groups):
        cells = []
        for group in groups:
            result = group["methods"].get(name)
            cells += (
                [interval_text(result["psnr"]), _mean(result["ssim"], 4), interval_text(result["inside"]["psnr"])]
                if result
                else [_MISSING] * 3
            )
        rows.append([f"**{METHODS[name].title}**" if name == PASS else METHODS[name].title, *cells])
    return table_text(["method", *columns], rows)


def _differences(heads: Sequence[str], groups: Sequence[Group]) -> str:
    columns = [f"{head} {title}" for head in heads for title in _WHERE.values()]
    names = _unique(name for group in groups for name in group["differences"])
    rows = []
    for name in names:
        cells = [_difference(group, name, where) for group in groups for where in _WHERE]
        rows.append([f"PASS − {METHODS[name].title}", *cells])
    return table_text(["", *columns], rows)


_WHERE = {"whole": "whole image", "inside": "lesions"}
_FIGURES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("image_auc", "image AUC", lambda found: interval_text(found, 3)),
    ("image_average_precision", "image average precision", lambda found: interval_text(found, 3)),
    ("calibration_error", "calibration error", lambda found: f"{found:.3f}"),
    ("calibration_error_by_chance", "calibration error by chance", lambda found: f"{found:.3f}"),
    ("pixel_auc", "pixel AUC", lambda found: interval_text(found, 3)),
    ("pixel_average_precision", "pixel average precision", lambda found: interval_text(found, 3)),
)


def _detection(heads: Sequence[str], groups: Sequence[Group]) -> str:
    rows = []
    for where, title in (("reconstruction", "reconstruction"), ("acs_image", "ACS image")):
        found = [group["detection"].get(where) for group in groups]
        counts = [f"{item['abnormal']} of {item['slices']}" if item else _MISSING for item in found]
        rows.append([f"{title}: abnormal slices", *counts])
        for key, name, form in _FIGURES:
            cells = [form(item[key]) if item and item[key] is not None else _MISSING for item in found]
            rows.append([f"{title}: {name}", *cells])
    return table_text(["", *heads], rows)


def detector_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What `evaluate_detectors` found: a row for each bundle and view."""
    rows = [
        [bundle, view, *(form(seen[key]) if seen[key] is not None else _MISSING for key, _, form in _FIGURES)]
        for bundle, views in found.items()
        for view, seen in views.items()
    ]
    return table_text(["bundle", "view", *(name for _, name, _ in _FIGURES)], rows)


def _faint(heads: Sequence[str], groups: Sequence[Group]) -> str:
    kinds = (("recovery_by_radius", "r {} px", 3), ("recovery_by_contrast", "contrast {}", 3),
             ("d_prime_by_radius", "d′, r {} px", 2))  # fmt: skip
    rows = []
    for head, group in zip(heads, groups, strict=True):
        for name, found in group.get("faint", {}).items():
            cells = [interval_text(one, digits) for kind, _, digits in kinds for one in found[kind].values()]
            rows.append([head, METHODS[name].title, str(found["blobs"]), *cells])
    first = next(found for group in groups for found in group.get("faint", {}).values())
    columns = [title.format(bounds) for kind, title, _ in kinds for bounds in first[kind]]
    return table_text(["", "method", "blobs", *columns], rows)


def _plans(heads: Sequence[str], groups: Sequence[Group]) -> str:
    forms: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
        ("high_frequency_lines", "lines chosen freely", lambda found: f"{found:.0f}"),
        ("between_patients", "between patients", lambda found: f"{found:.1f}"),
        ("from_population", "from the population's", lambda found: interval_text(found, 1)),
        ("from_lesion_free", "from the same patient without lesions", lambda found: interval_text(found, 1)),
    )
    rows = []
    for key, name, form in forms:
        found = [(group["plans"] or {}).get(key) for group in groups]
        rows.append([name, *(_MISSING if item is None else form(item) for item in found)])
    return table_text(["", *heads], rows)


def _seconds(heads: Sequence[str], groups: Sequence[Group]) -> str:
    columns = [f"{head} {what}" for head in heads for what in ("plan", "image")]
    rows = []
    for name in _methods(groups):
        found = [group["methods"].get(name) for group in groups]
        cells = [f"{item[key]:.3f}" if item else _MISSING for item in found for key in ("plan_seconds", "seconds")]
        rows.append([METHODS[name].title, *cells])
    return table_text(["method", *columns], rows)


def _remarks(results: Mapping[str, Any]) -> list[str]:
    lines = [
        f"- {bundle}: without {METHODS[name].title}: {reason}"
        for bundle, reasons in results["left_out"].items()
        for name, reason in reasons.items()
    ]
    lines += [f"- {line}" for line in results["without_data"]]
    lines += [
        f"- {item['dataset']} {item['case']} slice {item['slice']} with {item['bundle']} failed: {item['failed']}"
        for item in results["failed"]
    ]
    weights = [
        f"- {item['bundle']} {_noise(item['noise'])}: λ of L1-wavelet is {item['weight']:.3g}, tuned on "
        f"{item['slices']} slices{', the end of what is tried' if item['at_limit'] else ''}"
        for item in results["tuning"]
    ]
    hashes = [
        f"- {name}: {file} {sha256[:16]}…"
        for name, bundle in (*results["bundles"].items(), ("published weights", results["published"]))
        if bundle is not None
        for file, sha256 in bundle["sha256"].items()
    ]
    software = "Made with " + ", ".join(f"{name} {number}" for name, number in results["software"].items())
    pictures = [f"![{name}]({name})" for name in results["figures"]]
    sections = (("## Left out", lines), ("## λ", weights), ("## Bundles", hashes))
    return [*pictures, *(f"{title}\n\n" + "\n".join(items) for title, items in sections if items), software]


def _heads(groups: Sequence[Group]) -> list[str]:
    """A short name of each column, with the bundle's where that alone tells two apart."""
    short = [f"{group['acceleration']:g}× {_noise(group['noise'])}" for group in groups]
    return [
        f"{group['bundle']} {head}" if short.count(head) > 1 else head
        for head, group in zip(short, groups, strict=True)
    ]


def _order(group: Group) -> tuple[Any, ...]:
    return group["acceleration"], group["bundle"], group["noise"] is None, group["noise"] or 0.0


def _noise(noise: float | None) -> str:
    return "measured noise" if noise is None else f"σ {noise:g}"


def _methods(groups: Sequence[Group]) -> list[str]:
    return [name for name in METHODS if any(name in group["methods"] for group in groups)]


def _difference(group: Group, method: str, where: str) -> str:
    found = (group["differences"].get(method) or {}).get(where)
    return interval_text(found, 3, sign="+").replace("-", "−")


def interval_text(found: Mapping[str, Any] | None, digits: int = 2, *, sign: str = "") -> str:
    """A mean with the ends of its interval."""
    if found is None:
        return _MISSING
    mean = f"{found['mean']:{sign}.{digits}f}"
    if found["low"] is None:
        return mean
    return f"{mean} [{found['low']:{sign}.{digits}f}, {found['high']:{sign}.{digits}f}]"


def _mean(found: Mapping[str, Any] | None, digits: int) -> str:
    return _MISSING if found is None else f"{found['mean']:.{digits}f}"


def table_text(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _unique(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def draw(
    output: Path,
    groups: Sequence[Mapping[str, Any]],
    records: Sequence[Record],
    jobs: Mapping[str, Job],
    how: Mapping[str, Any],
) -> list[str]:
    """Draw bars, free-response curves and an example slice for every dataset and bundle.

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
        curves = {_noise(group["noise"]): group["by_lesion"]["curve"] for group in members if group.get("by_lesion")}
        if curves:
            write_free_response(
                output / _curves(dataset, bundle), curves, title=f"{bundle} on {dataset}, lesion by lesion"
            )
    examples = [job for pair in pairs if (job := _example(pair, records, jobs)) is not None]
    with closing(in_parallel(images_of, examples, lambda *_: None, unit="figure", **how)) as found:
        for images in found:
            if images is not None:
                names.append(_draw_example(output, images))
    return sorted(names)


def _curves(dataset: str, bundle: str) -> str:
    """The file of free-response curves, which the page shows beside their table."""
    return f"lesions_{_slug(dataset)}_{_slug(bundle)}.png"


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
    return replace(job, methods=tuple(name for name in job.methods if METHODS[name].pictured))


def _draw_example(output: Path, images: Mapping[str, Any]) -> str:
    entry = images["entry"]
    name = f"example_{_slug(entry.dataset)}_{_slug(images['bundle'])}.png"
    noise = "measured noise" if images["noise"] is None else f"σ = {images['noise']:g}"
    shown = {METHODS[method].title: images[method] for method in METHODS if method in images}
    title = f"{images['bundle']} on {entry.dataset}: {entry.case}, slice {entry.index}, {noise}"
    write_example(output / name, Example(images["truth"], shown, images["boxes"]), title=title)
    return name


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "bundle"
