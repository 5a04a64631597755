"""The mechanics of training that no stage should have to think about: a stage's loop stays a page long.

trainer = Trainer(objective, settings, run, processes)
for step in trainer.steps():
    for slices in batches.of_step():
        trainer.learn(slices)
    trainer.advance()
    if trainer.epoch():
        trainer.keep({"psnr": …}, score=…)
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from pass_recon.bundles import load_bundle, shipped_bundles
from pass_recon.bundles.card import CARD
from pass_recon.types import InputError, PassError
from training.engine.checkpoints import above, below, load_optimiser_state, optimiser_state
from training.engine.frozen import learned_state, load_learned_state
from training.engine.memory import out_of_memory_explained
from training.engine.processes import LOSS, Processes, Together
from training.engine.run_folder import BEST, CHECKPOINT, WEIGHTS, RunFolder, load_weights
from training.engine.settings import TrainingSettings

Losses = Mapping[str, Tensor]
_LOG_STEPS = 10


class Interrupted(PassError):
    """Somebody asked the run to stop; it has been saved."""


class Trainer:
    """Optimiser, schedule, average, precision, processes, checkpoints and log of one run.

    Parameters
    ----------
    objective
        A module that holds the networks and whose call returns losses by name, each a mean over its slices; the one
        called ``"loss"`` is minimised. Parameters that require no gradient are left alone.
    settings
        Of the run.
    run
        Its folder; a checkpoint in it is taken up.
    processes
        This process among those that train together.
    faster
        Learning rates of some parameters, as multiples: from a beginning of their name.
    slices
        That are in a batch, if they are more than ``batch``.

    Attributes
    ----------
    objective
        The same, on the device; in several processes wrapped so that gradients are averaged over them.
    averaged
        The objective with the moving average of the weights.
    step
        Steps done so far.
    """

    def __init__(
        self,
        objective: nn.Module,
        settings: TrainingSettings,
        run: RunFolder,
        processes: Processes,
        *,
        faster: Mapping[str, float] | None = None,
        slices: int = 0,
    ) -> None:
        self.settings, self.run, self.processes = settings, run, processes
        self._slices = (slices or settings.batch) * settings.accumulate * processes.count
        objective = objective.to(processes.device)
        if settings.initial:
            start_from(objective, settings.initial)
        self._names = [name for name, weight in objective.named_parameters() if weight.requires_grad]
        self._plain = objective
        self.averaged = AveragedModel(objective, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
        self.averaged.requires_grad_(False)
        # Its count on the host: it is looked at in every step.
        self.averaged.n_averaged = self.averaged.n_averaged.cpu()
        on_gpu = processes.device.type == "cuda"
        if on_gpu:
            torch.set_float32_matmul_precision("high")  # TF32: ten bits of the mantissa, in matrix products alone
        self._optimiser = torch.optim.AdamW(
            _groups(objective, settings, faster or {}),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.step = 0
        self._stop = ""
        self._best, self._stale = -math.inf, 0
        self._reported = time.monotonic(), 0
        self._parts = 0
        self._sums: dict[str, Tensor | float] = {}
        self._shown = ""
        self._resume()
        self._reported = time.monotonic(), self.step
        self._told: Tensor | None = None
        self.objective: nn.Module = objective
        if processes.count > 1:
            together = Together(objective)
            # Buffers are constants, the same in every process: they need not be sent before each step.
            constants = [name for name, _ in together.named_buffers()]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(together, constants)
            self.objective = DistributedDataParallel(together)

    def steps(self) -> Iterator[int]:
        """The steps still to do, with a progress bar; saves now and then, at the end, and when told to stop.

        Several processes stop at the same step: on a GPU, which is not waited for every step, within ten.

        Raises
        ------
        Interrupted
            After Ctrl-C or SIGTERM, once the step under way is done and saved.
        """
        saved = time.monotonic()
        with self._told_to_stop(), self._bar() as bar:
            while self.step < self.settings.steps and not self._exhausted:
                yield self.step
                bar.update(1)
                due = self.processes.first and time.monotonic() - saved > 60 * self.settings.checkpoint_minutes
                interrupted, exhausted = self._wishes()
                if interrupted:
                    self.save()
                    self.run.log("interrupted", self.step, by=self._stop)
                    raise Interrupted(f"stopped at step {self.step} and saved; the same command goes on from there")
                if exhausted:
                    break
                if due:
                    self.save()
                    saved = time.monotonic()
                bar.set_postfix_str(self._shown, refresh=False)
        if self.step < self.settings.steps:
            self.run.log("stopped early", self.step, validations_without_gain=self._stale)
        self.save()

    @property
    def _exhausted(self) -> bool:
        """Whether validations have not become better for as long as anybody wants to wait."""
        return 0 < self.settings.patience <= self._stale

    def _wishes(self) -> tuple[bool, bool]:
        """Whether any process was told to stop, and whether the first is exhausted."""
        if self.processes.count == 1:
            return bool(self._stop), self._exhausted
        if self._told is None or (self._told.is_cuda and not self._reports()):
            return False, False
        interrupted, exhausted = (self._told > 0).tolist()
        return interrupted, exhausted

    def autocast(self) -> AbstractContextManager[Any]:
        """Networks in bfloat16 where the settings and the device allow it."""
        device = self.processes.device.type
        wanted = self.settings.precision == "bfloat16" or (
            self.settings.precision == "auto" and device == "cuda" and torch.cuda.is_bf16_supported()
        )
        return torch.autocast(device, torch.bfloat16) if wanted else nullcontext()

    def learn(self, *inputs: Any) -> None:
        """Losses and gradients of one batch; ``accumulate`` of them make a step."""
        last = self._parts + 1 == self.settings.accumulate
        quiet = self.objective.no_sync() if isinstance(self.objective, DistributedDataParallel) and not last else None
        with quiet or nullcontext(), out_of_memory_explained(self.settings):
            with self.autocast():
                losses: Losses = self.objective(*self._with_wishes(inputs))
            (losses[LOSS] / self.settings.accumulate).backward()
        self._parts += 1
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().double()

    def _with_wishes(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if not isinstance(self.objective, DistributedDataParallel):
            return inputs
        wishes = torch.tensor([float(bool(self._stop)), float(self._exhausted)])
        return wishes.to(self.processes.device), *inputs

    def advance(self) -> None:
        """Take the step that the gradients ask for, unless they are not finite; nothing waits for the device."""
        factor = self._schedule()
        for group in self._optimiser.param_groups:
            group["lr"] = group["top"] * factor
        weights = [weight for group in self._optimiser.param_groups for weight in group["params"]]
        norm = nn.utils.clip_grad_norm_(weights, self.settings.gradient_clip, foreach=True)
        broken = (~torch.isfinite(norm)).float()
        self._optimiser.found_inf = broken  # type: ignore[attr-defined]
        self._optimiser.step()
        self.averaged.update_parameters(self._plain)
        self._sums["broken"] = self._sums.get("broken", 0.0) + broken.double()
        self._optimiser.zero_grad(set_to_none=True)
        if isinstance(self.objective, DistributedDataParallel):
            told = self.objective.module.wishes
            self._told, told.grad = told.grad, None
        self.step += 1
        if self._reports():
            self._report(float(norm), factor)
        self._parts = 0

    def epoch(self) -> int:
        """Number of the epoch that just ended, or 0 in the middle of one."""
        ended = self.step % self.settings.epoch == 0 or self.step == self.settings.steps
        return -(-self.step // self.settings.epoch) if ended else 0

    def keep(
        self,
        metrics: Mapping[str, float],
        *,
        score: float,
        figure: Path | None = None,
        objective: nn.Module | None = None,
    ) -> None:
        """Log what the averaged weights, or what a stage made of them, are worth, and keep them.

        Parameters
        ----------
        metrics
            What is known by name; what is not finite is left out, as there was nothing to measure it on.
        score
            By which validations are compared: higher is better.
        figure
            A picture of the validation.
        objective
            What to keep instead of the averaged weights.
        """
        known = {name: value for name, value in metrics.items() if math.isfinite(value)}
        better = score > self._best
        self._best, self._stale = (score, 0) if better else (self._best, self._stale + 1)
        self.run.log("validation", self.step, **known, **({"best": self._best} if math.isfinite(self._best) else {}))
        if figure is not None:
            self.run.show(figure, self.step)
        weights = learned_state(self.averaged.module if objective is None else objective)
        if better:
            self.run.save(BEST, weights, {"step": self.step, **known})
        if better or self.settings.keep == "last":
            self.run.save(WEIGHTS, weights, {"step": self.step, **known})

    def save(self) -> None:
        """Write the checkpoint: weights, their average, the optimiser, the step; randomness follows from the step."""
        tensors = above("weights.", learned_state(self._plain)) | above("averaged.", learned_state(self.averaged))
        tensors |= above("optimiser.", optimiser_state(self._optimiser))
        self.run.save(
            CHECKPOINT,
            tensors,
            {
                "step": self.step,
                "sums": {name: float(total) for name, total in self._sums.items()},
                "names": self._names,
                "best": self._best if math.isfinite(self._best) else None,
                "stale": self._stale,
            },
        )

    def _resume(self) -> None:
        loaded = self.run.load(CHECKPOINT)
        if loaded is None:
            self.run.log("started", 0)
            return
        tensors, about = loaded
        if about["names"] != self._names:
            raise InputError(f"the checkpoint in {self.run.path} holds other networks; give another folder")
        load_learned_state(self._plain, below(tensors, "weights."))
        load_learned_state(self.averaged, below(tensors, "averaged."))
        load_optimiser_state(self._optimiser, below(tensors, "optimiser."))
        self.step, self._sums = int(about["step"]), dict(about["sums"])
        best, self._stale = about.get("best"), int(about.get("stale", 0))
        self._best = -math.inf if best is None else float(best)
        self.run.log("resumed", self.step)

    def _schedule(self) -> float:
        """Linear warm-up, then half a cosine down to 1 %."""
        settings = self.settings
        rise = min(1.0, (self.step + 1) / max(settings.warmup, 1))
        return rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.step / settings.steps)))

    def _reports(self) -> bool:
        return self.step % _LOG_STEPS == 0 or self.step == self.settings.steps

    def _report(self, norm: float, factor: float) -> None:
        done = self.step % _LOG_STEPS or _LOG_STEPS
        broken = int(float(self._sums.pop("broken")))
        means = {name: float(total) / (done * self.settings.accumulate) for name, total in self._sums.items()}
        self._sums = {}
        if broken:
            self.run.log("skipped", self.step, steps=broken)
        now, (before, step) = time.monotonic(), self._reported
        rate = (self.step - step) / max(now - before, 1e-9)
        self._reported = now, self.step
        self._shown = f"{LOSS} {means[LOSS]:.4g}, {rate * self._slices:.3g} slices/s"
        self.run.log(
            "step",
            self.step,
            **{name: value for name, value in means.items() if math.isfinite(value)},
            **({"gradient": norm} if math.isfinite(norm) else {}),
            learning_rate=self.settings.learning_rate * factor,
            slices_per_second=rate * self._slices,
            hours_left=(self.settings.steps - self.step) / rate / 3600,
        )

    @contextmanager
    def _told_to_stop(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM let the step under way finish; a second one acts at once."""
        before: dict[int, Any] = {}

        def stop(number: int, _frame: object) -> None:
            self._stop = signal.Signals(number).name
            signal.signal(number, before[number])

        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, stop)
        except ValueError:  # not the main thread: whoever runs us handles signals
            pass
        try:
            yield
        finally:
            for number_before, handler in before.items():
                signal.signal(number_before, handler)

    @contextmanager
    def _bar(self) -> Iterator[Any]:
        # None shows the bar where standard error is a terminal.
        hidden = None if self.processes.first else True
        bar = tqdm(total=self.settings.steps, initial=self.step, unit="step", disable=hidden, file=sys.stderr)
        with bar:
            yield bar


def start_from(objective: nn.Module, run: str) -> None:
    """Take over weights of another run, or a bundle's reconstructor, wherever names and shapes are the same.

    Weights that do not learn stay what the objective made them.
    """
    weights, ours = _weights_of_run_or_bundle(run), objective.state_dict()
    for name, weight in objective.named_parameters():
        if not weight.requires_grad:
            ours.pop(name, None)
    fitting = {name: value for name, value in weights.items() if name in ours and ours[name].shape == value.shape}
    if not fitting:
        raise InputError(f"no weights in {run} fit this network")
    objective.load_state_dict(fitting, strict=False)


def _weights_of_run_or_bundle(name: str) -> dict[str, Tensor]:
    if name not in shipped_bundles() and not (Path(name) / CARD).is_file():
        return load_weights(name)
    reconstructor = load_bundle(name).reconstructor
    return {f"reconstructor.{key}": value for key, value in reconstructor.state_dict().items()}


def _groups(objective: nn.Module, settings: TrainingSettings, faster: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parameters by their learning rate; only matrices and filters decay."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, weight in objective.named_parameters():
        if weight.requires_grad:
            times = next((value for start, value in faster.items() if name.startswith(start)), 1.0)
            groups.setdefault((times, weight.ndim > 1), []).append(weight)
    if not groups:
        raise InputError("nothing here can be trained: no parameter requires a gradient")
    return [
        {
            "params": weights,
            "top": settings.learning_rate * times,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (times, decays), weights in groups.items()
    ]
