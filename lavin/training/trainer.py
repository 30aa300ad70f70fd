"""The loop that both trainings share: steps, EMA, signals, trackers, progress; ``saved_run`` has its files."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from tqdm import tqdm

from lavin.errors import LavinError
from lavin.training.companion import Companion
from lavin.training.monitor import Monitor, progress_line
from lavin.training.randomness import numpy_rng, torch_rng
from lavin.training.run_config import OptimizerConfig, RunConfig
from lavin.training.saved_run import SavedRun
from lavin.training.schedule import learning_rate_factor
from lavin.training.signals import deaf_to_interrupts, signals_noted
from lavin.training.tracking import show_panels, start_trackers

__all__ = ["Trainer", "deaf_to_interrupts", "learning_rate_factor", "numpy_rng", "torch_rng"]

SPEED_MEASURED_AFTER = 50
"""Steps after which the speed is known well enough to tell when the time allowed will be over."""
SKIPS_IN_A_ROW = 10
"""Steps without a finite loss and gradient that end a run: it does not recover from that."""


class Trainer(SavedRun):
    """One model, trained to ``max_steps`` from its newest checkpoint on.

    Args:
        model: what is trained.
        run, optimizer: configurations.
        record: the resolved configuration, saved in every checkpoint.
        many_shapes: whether batches differ in shape; see ``SavedRun``.
        companion: what trains beside it.
    """

    def __init__(
        self,
        model: nn.Module,
        run: RunConfig,
        optimizer: OptimizerConfig,
        record: dict[str, Any],
        many_shapes: bool = False,
        companion: Companion | None = None,
    ):
        self.signal: int | None = None
        self.votes = (False, False)
        self.batch: list[dict[str, Tensor]] = []
        super().__init__(model, run, optimizer, record, many_shapes, companion)
        self.monitor = Monitor(self.accelerator, run.precision)

    # --- Randomness ---------------------------------------------------------------------------------------------------

    def rngs(self, step: int, micro_step: int = 0) -> tuple[np.random.Generator, torch.Generator]:
        """Generators of one forward pass: for the data, and for timesteps and noise.

        They are numbered through all ranks: two ranks draw what one draws that accumulates two passes.
        """
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        number = (step * self.run.accumulation + micro_step) * ranks + rank
        noise = torch_rng(self.run.seed, number, 0, self.accelerator.device)
        return numpy_rng(self.run.seed, rank if self.run.overfit_batch else number, 0), noise

    # --- The loop -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        compute_loss: Callable[[nn.Module, np.random.Generator, torch.Generator], tuple[Tensor, dict[str, Tensor]]],
        validate: Callable[[int], tuple[dict[str, float], dict[str, Tensor]]] | None = None,
        export: Callable[[Path], None] | None = None,
    ) -> None:
        """Train until ``max_steps``.

        Args:
            compute_loss: (model, data generator, noise generator) -> scalar loss, and what else to log.
            validate: step -> numbers and panels (uint8 (3, height, width)) for the trackers; it runs twice, with
                the averaged weights and with the trained ones.
            export: write the averaged weights to a folder; collective. Called every ``export_every`` steps.

        Raises:
            LavinError: ten steps in a row had no finite loss or gradient.
            SystemExit: SIGTERM (143) or Ctrl-C (130), once a checkpoint is written.
        """
        if self.accelerator.is_main_process:
            start_trackers(self.accelerator, self.run.trackers, self.record)
        bar = tqdm(total=self.run.max_steps, initial=self.step, disable=not sys.stderr.isatty(), desc="train")
        self.sums: dict[str, Tensor] = {}
        self.started_at = self.step, time.perf_counter()
        self.monitor.clock.restart()
        with signals_noted(self.note_signal, once=self.accelerator.num_processes == 1):
            last = self.finished()
            while not last:
                for name, value in self.train_step(compute_loss).items():
                    self.sums[name] = self.sums.get(name, 0.0) + value
                self.step += 1
                bar.update()
                last = self.finished()
                if self.step % self.run.log_every == 0 or last:
                    self.log(self.measured(), bar)
                stopped = self.interrupted()
                validated = validate and self.run.validate_every and not stopped
                if validated and (self.step % self.run.validate_every == 0 or last):
                    with self.monitor.clock.doing("validation"):
                        self.validate(validate, bar)
                if self.step % self.run.checkpoint_every == 0 or last:
                    with self.monitor.clock.doing("saving"):
                        self.save()
                if export and self.run.export_every and self.step % self.run.export_every == 0 and not stopped:
                    with self.monitor.clock.doing("saving"):
                        self.export(export)
        bar.close()
        if self.interrupted():
            self.accelerator.print(f"interrupted at step {self.step}; the same command resumes {self.folder}")
            self.end()
            sys.exit(128 + (self.signal or signal.SIGTERM))
        self.check_vitals()

    def end(self) -> None:
        """Close logs and leave the other ranks: nothing collective works after it."""
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    def train_step(self, compute_loss) -> dict[str, Tensor]:
        """One optimizer step, over ``accumulation`` forward passes; skipped where loss or gradient is not finite."""
        factor = learning_rate_factor(self.step, self.schedule, self.agreed_last_step())
        for group in self.engine.adamw.param_groups:
            group["lr"] = self.schedule.learning_rate * factor
        logs: dict[str, Tensor] = {}
        previous, self.batch = self.batch, []
        for micro_step in range(self.run.accumulation):
            data_rng, noise_rng = self.rngs(self.step, micro_step)
            torch.manual_seed(noise_rng.initial_seed())  # drop path draws from the global generator
            with self.engine.micro_step(last=micro_step == self.run.accumulation - 1):
                loss, extra = compute_loss(self.engine.model, data_rng, noise_rng)
                self.engine.backward(loss / self.run.accumulation)
            for name, value in {"loss": loss.detach(), **extra}.items():
                logs[name] = logs.get(name, 0.0) + value / self.run.accumulation
        self.check_vitals(previous)  # of the step before: asking for this one's would make the device wait
        logs["gradient_norm"] = self.engine.clip()
        shared = torch.stack([logs["loss"].float(), *self.wishes()])
        logs["loss"], over, interrupted = self.accelerator.reduce(shared, reduction="mean").unbind()
        finite = logs["loss"].isfinite() & logs["gradient_norm"].isfinite()
        skip = (~finite).float()
        self.engine.step(skip)
        self.average.update(self.engine.masters, self.step, skip)
        self.vitals.update(skip, over, interrupted)
        if self.companion is not None:
            logs |= self.companion.step(self.step)
        counts = {"finite": finite.float(), "steps": torch.ones_like(skip)}
        return {name: torch.where(finite, value, 0.0) for name, value in logs.items()} | counts

    def remember(self, **batch: Tensor) -> None:
        """Note what a forward pass trains on: it is saved if that ends the run."""
        self.batch.append({name: value.detach() for name, value in batch.items()})

    def check_vitals(self, batch: list[dict[str, Tensor]] | None = None) -> None:
        """Take note of the step before; end the run if it was the tenth in a row to be skipped.

        Raises:
            LavinError: on all ranks together.
        """
        skipped, in_a_row, *votes = self.vitals.read()
        self.votes = tuple(votes)
        if in_a_row < SKIPS_IN_A_ROW:
            return
        rank = self.accelerator.process_index
        path = self.folder / f"not-finite-rank{rank}.pt"
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save({"seed": self.run.seed, "batch": self.batch if batch is None else batch}, path)
        raise LavinError(
            f"loss or gradient was not finite in {in_a_row} steps in a row, up to step {self.step} ({skipped} in all); "
            f"the batch is in {path}; lower optimizer.learning_rate and resume, or look for what the batch has wrong"
        )

    def measured(self) -> dict[str, float]:
        """Means over the steps since the last call, skipped ones left out, and what the monitor saw; collective."""
        finite, steps = (float(self.sums.pop(name)) for name in ("finite", "steps"))
        means = {name: float(total) / finite for name, total in self.sums.items()} if finite else {}
        means["learning_rate"] = self.engine.adamw.param_groups[0]["lr"]
        means["skipped_steps"] = float(self.vitals.skipped)
        if self.companion is not None:
            means |= self.companion.counts()
        self.sums = {}
        return means | self.monitor.look(int(steps))

    def log(self, values: dict[str, float], bar: tqdm) -> None:
        """Tell the trackers everything and a person the most of it."""
        self.accelerator.log(values, step=self.step)
        if self.accelerator.is_main_process:
            speed = values.get("steps_per_s")
            line = progress_line(values, (self.last_step() - self.step) / speed if speed else None)
            if bar.disable:
                print(f"step {self.step}/{self.run.max_steps}  {line}", flush=True)
            else:
                bar.set_postfix_str(line)

    def validate(self, validate, bar: tqdm) -> None:
        """Numbers and panels with the averaged weights, then with the trained ones, which are put back."""
        with self.engine.shown(self.average.values):
            self.judge(validate, bar, "validation", "")
        self.judge(validate, bar, "validation_raw", " (raw weights)")

    @torch.no_grad()
    def judge(self, validate, bar: tqdm, group: str, title: str) -> None:
        """Numbers and panels of the weights that the model has now."""
        self.bare_model.eval()
        try:
            values, panels = validate(self.step)
        finally:
            self.bare_model.train()
        self.log({f"{group}/{name}": value for name, value in values.items()}, bar)
        if self.accelerator.is_main_process:
            show_panels(self.accelerator, {name + title: panel for name, panel in panels.items()}, self.step)

    # --- The end ------------------------------------------------------------------------------------------------------

    def last_step(self) -> float:
        """The step at which training will end, the time allowed and the speed so far considered."""
        if self.run.max_minutes is None:
            return self.run.max_steps
        first, since = self.started_at
        spent = (time.perf_counter() - since) / 60 / self.run.max_minutes
        if spent >= 1:
            return self.step
        known = self.step >= first + SPEED_MEASURED_AFTER
        return min(self.run.max_steps, first + (self.step - first) / spent) if known else self.run.max_steps

    def agreed_last_step(self) -> float:
        """``last_step`` by the main process' clock: ranks that decay differently would train different weights."""
        if self.run.max_minutes is None or self.accelerator.num_processes == 1:
            return self.last_step()
        return broadcast_object_list([self.last_step()])[0]

    def finished(self) -> bool:
        """Whether the last step is done. Several ranks agree by what they wished in the step before."""
        if self.step >= self.run.max_steps:
            return True
        if self.accelerator.num_processes > 1:
            return any(self.votes)
        return self.interrupted() or self.step >= self.last_step()

    def wishes(self) -> list[Tensor]:
        """Whether this rank wants to stop: its time is over (by the main one's clock), it was interrupted."""
        over = self.accelerator.is_main_process and self.step + 1 >= self.last_step()
        # Filled on the device: a copy to it would wait for it.
        return [torch.full((), float(wish), device=self.accelerator.device) for wish in (over, self.signal is not None)]

    def interrupted(self) -> bool:
        """Whether a signal ends the run; all ranks agree."""
        return self.votes[1] if self.accelerator.num_processes > 1 else self.signal is not None

    def note_signal(self, number: int) -> None:
        self.signal = number
