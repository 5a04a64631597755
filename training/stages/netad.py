"""Detectors of anomalies from a dozen annotated cases an examination: adapters, memory, calibration.

    pass-recon train netad --config training/recipes/shipped.yaml --data dataset -o runs/netad

One NetAD for each examination, all on one frozen backbone. Focal and Dice losses for the pixel-level adapters against
masks (or the insides of boxes), binary cross-entropy for the image-level adapters against labels. Then the memory is
filled from normal training images, and map and score are calibrated on validation patients.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pass_recon.anomaly import BackboneConfiguration, NetAD
from pass_recon.anomaly.clip_source import load_clip
from pass_recon.common.settings import checked
from pass_recon.phantom.draws import mixed_seed
from pass_recon.types import InputError
from training.data.augmentation import randomly_degraded, varied
from training.data.case_file import ABNORMAL, NORMAL
from training.data.dataset import SliceDataset, open_slices
from training.data.heads import Heads, read_heads, with_heads
from training.data.images import ImageSlice, ImageSource, drawn, open_images, stacked
from training.data.manifest import is_annotated
from training.engine.frozen import Frozen
from training.engine.processes import joined_processes
from training.engine.run_folder import RunFolder, opened_run
from training.engine.settings import RunPath, TrainingSettings
from training.engine.trainer import Trainer
from training.engine.validation import finite_mean
from training.evaluate.detectors import VIEWS, look, write_map_figure
from training.stages.anomaly_maps import NETAD
from training.stages.backbone import load_backbone
from training.stages.errors import dice, focal

STAGE = "netad"
# Outside the known lesions of what nobody reviewed there may be others.
_UNREVIEWED = 0.2


@checked
@dataclass(frozen=True)
class NetADSettings(TrainingSettings):
    """Settings of this stage; the common ones are described in `TrainingSettings`, ``batch`` is for each examination.

    Attributes
    ----------
    backbone
        Run folder of `train_backbone`.
    clip, pretrained, path
        Published weights instead: open_clip's name and tag (``ViT-L-14-336``, ``openai``), or a name that begins with
        ``hf-hub:``, or a local file or folder (`BackboneConfiguration` has all forms).
    examinations
        ``anatomy-contrast``; all in the data by default.
    annotated, normal
        Cases of each examination from which abnormal and normal slices are taken; 0 takes all. Annotated ones have
        boxes; where a finding is only stated of a whole study, pixels are not taught that they are normal.
    size
        Side of the images before they are fitted to the backbone's working size.
    memory
        Tokens of normal images that are remembered, for each branch and level.
    remembered
        Normal images that the memory is filled from.
    image_weight
        Weight of the image-level loss.
    calibration
        Prepared dataset on whose validation slices scores are calibrated; that of training by default.
    prevalence
        Share of abnormal slices where the scores will be read, at which they are probabilities; sets for calibration
        hold more.
    score_fraction
        The image score is the mean over this fraction of its tokens, the most abnormal ones.
    heads, heads_share
        File of `prepare_heads`, and the share of each batch of brains that comes from it.
    """

    steps: int = 120
    batch: int = 4
    learning_rate: float = 1e-3
    ema_decay: float = 0.95
    validation_slices: int = 20
    backbone: RunPath = ""
    clip: str = ""
    pretrained: str = ""
    path: str = ""
    examinations: tuple[str, ...] = ()
    annotated: int = 12
    normal: int = 12
    size: int = 320
    memory: int = 128
    remembered: int = 48
    image_weight: float = 1.0
    calibration: str = ""
    prevalence: float = 0.3
    score_fraction: float = 0.01
    heads: str = ""
    heads_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.prevalence < 1:
            raise InputError(f"prevalence must be above 0 and below 1, got {self.prevalence:g}")


class AdapterObjective(nn.Module):
    """Losses of detectors that share a backbone; only their adapters are learned."""

    def __init__(self, netads: Mapping[str, NetAD], image_weight: float = 1.0) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict({examination: netad.adapters for examination, netad in netads.items()})
        self.detectors = Frozen()
        self.detectors.netads = nn.ModuleDict(netads)
        self._image_weight = image_weight

    @property
    def netads(self) -> dict[str, NetAD]:
        """By examination."""
        held = self.detectors.netads
        assert isinstance(held, nn.ModuleDict)
        return {name: netad for name, netad in held.items() if isinstance(netad, NetAD)}

    def __deepcopy__(self, memo: dict[int, Any]) -> AdapterObjective:
        # A moving average has adapters of its own and looks through the same backbone.
        copies = {name: with_own_adapters(netad) for name, netad in self.netads.items()}
        return AdapterObjective(copies, self._image_weight).train(self.training)

    def forward(self, batches: Sequence[ImageSlice]) -> dict[str, Tensor]:
        """Losses of batches of one examination each, averaged."""
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for batch in batches:
            logits = self.netads[batch.examination[0]].logits(batch.image)
            trust = torch.where(batch.reviewed, 1.0, _UNREVIEWED)[:, None, None]
            weight = torch.where(batch.mask, 1.0, trust) * batch.located[:, None, None]
            known = batch.label >= 0
            labels = batch.label.clamp(min=0).to(logits.image.dtype)[:, None].expand_as(logits.image)
            image = F.binary_cross_entropy_with_logits(logits.image, labels, reduction="none")
            image = (image * known[:, None]).sum() / (known.sum().clamp(min=1) * image.shape[1])
            parts.append((focal(logits.pixel, batch.mask, weight), dice(logits.pixel, batch.mask, weight), image))
        pixels, overlap, images = (torch.stack(values).mean() for values in zip(*parts, strict=True))
        loss = 10 * pixels + overlap + self._image_weight * images
        return {"loss": loss, "focal": pixels, "dice": overlap, "images": images}


@torch.no_grad()
def informed_start(netad: NetAD) -> None:
    """Let adapters begin with the backbone's own way from tokens to embeddings instead of with noise."""
    reduction = netad.backbone.reduction()
    if reduction is None:
        return
    for level in netad.adapters:
        for adapter in (level.pixel, level.image):
            adapter.reduce.weight.copy_(reduction)  # type: ignore[union-attr,operator]
            if adapter.expand is not None:
                nn.init.normal_(adapter.expand.weight, std=0.02)  # type: ignore[union-attr,arg-type]


def build_detectors(settings: NetADSettings, examinations: Iterable[str]) -> dict[str, NetAD]:
    """Untrained detectors by examination on one backbone, shared by all.

    Raises
    ------
    InputError
        If no backbone was given, or more than one, or a run has no weights.
    """
    published = bool(settings.clip or settings.path)
    if published == bool(settings.backbone):
        raise InputError(
            "a detector needs one backbone: set backbone to the run folder of `train backbone`, or clip and pretrained "
            f"to open_clip's names (backbone is {settings.backbone!r}, clip {settings.clip!r}, path {settings.path!r})"
        )
    if published:
        configuration = BackboneConfiguration(settings.clip, settings.pretrained, settings.path)
        clip, tokenizer = load_clip(configuration)
    else:
        clip, tokenizer, configuration = load_backbone(settings.backbone)
    netads: dict[str, NetAD] = {}
    shared = None
    for examination in sorted(examinations):
        anatomy = examination.split("-")[0]
        netad = NetAD.from_clip(clip, tokenizer, configuration, anatomy=anatomy, score_fraction=settings.score_fraction)
        shared = netad.backbone if shared is None else shared
        netad = NetAD(netad.configuration, shared, netad.text, netad.finding_text)
        informed_start(netad)
        netads[examination] = netad
    return netads


def few_cases(folders: Sequence[str | Path], settings: NetADSettings) -> list[ImageSource]:
    """Training slices of a few cases of each examination; of several folders that have it, each gives its share."""
    sources = []
    by_examination: dict[str, list[SliceDataset]] = {}
    for slices in open_slices(folders, "train", settings.examinations, fraction=settings.fraction):
        first = next(iter(slices.cases.values()))
        by_examination.setdefault(f"{first['anatomy']}-{first['contrast']}", []).append(slices)
    for examination, datasets in sorted(by_examination.items()):
        left = {ABNORMAL: settings.annotated or math.inf, NORMAL: settings.normal or math.inf}
        datasets.sort(key=lambda dataset: len(dataset.cases))
        for number, dataset in enumerate(datasets):
            found = _labels_by_case(dataset)
            draw = torch.Generator().manual_seed(mixed_seed(settings.seed, "few", examination, number))
            names = sorted(found)
            names = [names[int(n)] for n in torch.randperm(len(names), generator=draw)]
            chosen: set[str] = set()
            for label, least in left.items():
                having = [name for name in names if label in found[name]]
                if label == ABNORMAL:
                    having = [name for name in having if is_annotated(dataset.cases[name])]
                share = math.ceil(least / (len(datasets) - number)) if least < math.inf else len(having)
                chosen |= set(having[:share])
                left[label] = least - len(having[:share])
            if chosen:
                cases = [name for name in dataset.cases if name in chosen]
                anatomy, contrast = examination.split("-", 1)
                few = SliceDataset(dataset.folder, "train", anatomy=anatomy, contrast=contrast, cases=cases)
                sources.append(ImageSource(few, settings.size))
    return sources


def _labels_by_case(dataset: SliceDataset) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for (name, _), label in zip(dataset.entries, dataset.labels(), strict=True):
        found.setdefault(name, set()).add(label)
    return found


def train_netad(settings: NetADSettings, data: Sequence[Path], run_folder: Path, device: str = "auto") -> None:
    """Train, or go on training, the detectors; `training.stages.anomaly_maps.load_detectors` reads the result.

    Parameters, errors: as `train_backbone`.
    """
    with (
        joined_processes(device) as processes,
        opened_run(run_folder, settings, STAGE, writes=processes.first) as run,
    ):
        run.record_data(data)
        torch.manual_seed(settings.seed)
        sources = few_cases(data, settings)
        held_out = open_images(data, "validation", settings.examinations, settings.size)
        calibrating = held_out
        if settings.calibration:
            calibrating = open_images([settings.calibration], "validation", settings.examinations, settings.size)
        examinations = sorted({source.examination for source in sources})
        if not examinations:
            raise InputError(
                f"detectors have nothing to learn from: no training case of {', '.join(map(str, data))} has findings "
                "with boxes, or slices that are known to be normal"
            )
        netads = build_detectors(settings, examinations)
        for sentence in without_a_class(held_out, settings):
            run.tell(sentence)
        objective = AdapterObjective(netads, settings.image_weight)
        trainer = Trainer(objective, settings, run, processes, slices=settings.batch * len(examinations))
        heads = read_heads(settings.heads, settings.size)
        for step in trainer.steps():
            for part in range(settings.accumulate):
                number = (step * settings.accumulate + part) * processes.count + processes.rank
                batches = [
                    training_batch([s for s in sources if s.examination == examination], settings, number, heads).to(
                        processes.device
                    )
                    for examination in examinations
                ]
                trainer.learn(batches)
            trainer.advance()
            if trainer.epoch() and processes.first:
                averaged: Any = trainer.averaged.module
                finished = finish(averaged.netads, sources, calibrating, settings)
                figure = run.figure(trainer.epoch())
                quality = validate(finished, held_out, settings, figure)
                areas = [value for name, value in quality.items() if name.endswith("_auc")]
                trainer.keep(quality, score=finite_mean(areas), figure=figure if figure.is_file() else None)
                save_detectors(run, finished)


def training_batch(
    sources: Sequence[ImageSource], settings: NetADSettings, number: int, heads: Heads | None = None
) -> ImageSlice:
    """Batch ``number`` of one examination."""
    items = []
    for place in range(number * settings.batch, (number + 1) * settings.batch):
        draw = torch.Generator().manual_seed(mixed_seed(settings.seed, sources[0].examination, "variation", place))
        items.append(varied(drawn(sources, settings.seed, place), draw))
    draw = torch.Generator().manual_seed(mixed_seed(settings.seed, sources[0].examination, "heads", number))
    return with_heads(items, heads, settings.heads_share, [sources[0].examination], draw)


def with_own_adapters(netad: NetAD) -> NetAD:
    """A copy that shares the backbone, has the same adapters for itself, and neither memory nor calibration."""
    start = dataclasses.replace(netad.configuration, memory_tokens=0)
    copied = NetAD(start, netad.backbone, netad.text, netad.finding_text).to(netad.text.device)
    copied.adapters.load_state_dict(netad.adapters.state_dict())
    return copied


@torch.no_grad()
def finish(
    netads: Mapping[str, NetAD],
    sources: Sequence[ImageSource],
    calibrating: Sequence[ImageSource],
    settings: NetADSettings,
) -> dict[str, NetAD]:
    """Copies of detectors (sharing their backbone) with memory and calibration."""
    finished = {}
    for examination, netad in netads.items():
        copied = with_own_adapters(netad)
        remember_normal(copied, [source for source in sources if source.examination == examination], settings)
        validation = [source for source in calibrating if source.examination == examination]
        if validation:
            calibrate(
                copied,
                stacked([source[n] for source in validation for n in spread(source, settings)]),
                settings.prevalence,
            )
        finished[examination] = copied
    return finished


def remember_normal(netad: NetAD, sources: Sequence[ImageSource], settings: NetADSettings) -> None:
    """Fill the memory from normal images, clean and degraded: an ACS image of the healthy is no anomaly."""
    pool = [(source, number) for source in sources for number in source.normal][: settings.remembered]
    if not pool or not settings.memory:
        return
    images = []
    for place, (source, number) in enumerate(pool):
        draw = torch.Generator().manual_seed(mixed_seed(settings.seed, "memory", place))
        images.append(randomly_degraded(source[number].image, draw))
    netad.remember(torch.stack(images).to(netad.text.device).split(8), size=settings.memory)


def calibrate(netad: NetAD, batch: ImageSlice, prevalence: float | None = None) -> None:
    """Fit map and score on slices seen in all views; only slices whose label is known count.

    ``prevalence`` is the share of slices with a lesion where scores are to be probabilities, if it is not that of the
    batch.
    """
    batch = batch.to(netad.text.device)
    seen = [look(netad, batch, view, calibrated=False) for view in VIEWS]
    known = batch.label >= 0
    labels = batch.label[known].double()
    if len(labels.unique()) < 2 or not bool(batch.mask[known].any()):
        return
    scores = torch.cat([each.score[known] for each in seen])
    netad.score_calibration.fit(scores, labels.repeat(len(seen)), prevalence=prevalence)
    # Every third row and column: neighbours say the same, and tens of thousands of pixels are enough for two numbers.
    maps = torch.cat([each.anomaly_map[known][:, ::3, ::3] for each in seen])
    netad.map_calibration.fit(maps, batch.mask[known][:, ::3, ::3].double().repeat(len(seen), 1, 1))


def validate(
    netads: Mapping[str, NetAD], held_out: Sequence[ImageSource], settings: NetADSettings, figure: Path | None = None
) -> dict[str, float]:
    """Quality of each detector on clean and on ACS images of validation patients, and a figure."""
    found: dict[str, float] = {}
    rows = []
    for source in held_out:
        if source.examination not in netads:
            continue
        netad = netads[source.examination]
        batch = stacked([source[number] for number in spread(source, settings)]).to(netad.text.device)
        for view in (VIEWS[0], VIEWS[2]):
            seen = look(netad, batch, view)
            found |= {f"{source.examination} {view} {name}": value for name, value in seen.quality().items()}
            sick = (batch.label == 1).nonzero().flatten().tolist()
            rows += [(f"{source.examination} {view}", seen, number) for number in sick[:1]]
    if figure is not None and rows:
        write_map_figure(figure, rows)
    return found


def without_a_class(held_out: Sequence[ImageSource], settings: NetADSettings) -> list[str]:
    """A sentence for each examination whose validation slices are all sick or all healthy: nothing can be measured."""
    told = []
    for source in held_out:
        labels = {int(source[number].label) for number in spread(source, settings)}
        missing = [word for label, word in ((ABNORMAL, "abnormal"), (NORMAL, "normal")) if label not in labels]
        if missing:
            told.append(
                f"no validation slice of {source.examination} is {' or '.join(missing)}: areas under the curve are not "
                "measured there, and scores are not calibrated unless calibration= names another dataset"
            )
    return told


def spread(source: ImageSource, settings: NetADSettings) -> list[int]:
    """Numbers of ``validation_slices`` slices, spread over the source."""
    count = min(len(source), settings.validation_slices)
    return torch.linspace(0, len(source) - 1, count).long().unique().tolist()


def save_detectors(run: RunFolder, netads: Mapping[str, NetAD]) -> None:
    """One file: tensors under ``<examination>.``, those of the shared backbone once under ``backbone.``."""
    tensors: dict[str, Tensor] = {}
    for examination, netad in netads.items():
        for name, value in netad.weights().items():
            tensors[name if name.startswith("backbone.") else f"{examination}.{name}"] = value
    run.save(
        NETAD,
        tensors,
        {"examinations": {examination: netad.configuration.to_dict() for examination, netad in netads.items()}},
    )
