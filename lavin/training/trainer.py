"""The loop that both trainings share: steps, EMA, checkpoints and resume, signals, TensorBoard, progress bar."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from tqdm import tqdm

from lavin.errors import InputError, LavinError
from lavin.models.weights import build
from lavin.training import checkpoint
from lavin.training.average import Average
from lavin.training.config import OptimizerConfig, RunConfig
from lavin.training.engine import MOMENTS, make_accelerator, make_engine


def numpy_rng(seed: int, step: int, rank: int) -> np.random.Generator:
    """What draws the data of one step on one rank: a pure function of the three, so that a resumed run is the same."""
    return np.random.default_rng((seed, step, rank))


def torch_rng(seed: int, step: int, rank: int, device: torch.device | str = "cpu") -> torch.Generator:
    """What draws timesteps and noise of one step on one rank."""
    word = int(np.random.SeedSequence((seed, step, rank, 1)).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(word)


def learning_rate_factor(step: float, config: OptimizerConfig, last: float) -> float:
    """Linear warm-up to 1, then constant, then linear decay to 0 at step ``last``."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    length = max(config.decay_steps, config.decay_share * last)
    decay = min(1.0, (last - step) / length) if length else 1.0
    return warmup * max(decay, 0.0)


SPEED_MEASURED_AFTER = 50
"""Steps after which the speed is known well enough to tell when the time allowed will be over."""
SKIPS_IN_A_ROW = 10
"""Steps without a finite loss and gradient that end a run: it does not recover from that."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What makes a run save and exit."""


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes started here do not hear a terminal's Ctrl-C: it is the trainer's, which still needs their batches."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Vitals:
    """What is known of a step, on the device: read a step late, so that the device need not be waited for.

    Every rank finds the same values.
    """

    def __init__(self, device: torch.device):
        self.skipped, self.in_a_row = torch.zeros(2, device=device).unbind()
        self.host = torch.zeros(4, pin_memory=device.type == "cuda")
        self.copied = torch.cuda.Event() if device.type == "cuda" else None

    def update(self, skip: Tensor, over: Tensor, interrupted: Tensor) -> None:
        """Count a step, ``skip`` 1 if it was skipped; the others are above zero if a rank wants to stop."""
        self.skipped = self.skipped + skip
        self.in_a_row = (self.in_a_row + 1) * skip
        self.host.copy_(torch.stack([self.skipped, self.in_a_row, over, interrupted]), non_blocking=True)
        if self.copied is not None:
            self.copied.record()

    def read(self) -> tuple[int, int, bool, bool]:
        """Steps skipped in all and in a row, whether the time is over, whether a rank was interrupted."""
        if self.copied is not None:
            self.copied.synchronize()
        skipped, in_a_row, over, interrupted = self.host.tolist()
        return int(skipped), int(in_a_row), over > 0, interrupted > 0


class Companion(Protocol):
    """What trains beside the model, with an optimizer of its own: a discriminator."""

    def start(self, accelerator: Accelerator) -> None:
        """Called once, before the first step."""

    def step(self, step: int) -> dict[str, Tensor]:
        """Called after each step of the model, on all ranks; what to log."""

    def counts(self) -> dict[str, float]:
        """What to log of the run so far."""

    def state(self) -> dict[str, Any]:
        """Its part of a checkpoint."""

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from there."""


class Trainer:
    """One model, trained to ``max_steps`` from its newest checkpoint on.

    Args:
        model: what is trained.
        run, optimizer: configurations.
        record: the resolved configuration, saved in every checkpoint.
        companion: what trains beside it.
    """

    def __init__(
        self,
        model: nn.Module,
        run: RunConfig,
        optimizer: OptimizerConfig,
        record: dict[str, Any],
        companion: Companion | None = None,
    ):
        self.run, self.schedule, self.record, self.companion = run, optimizer, record, companion
        self.folder = Path(run.output_dir)
        self.accelerator = make_accelerator(run)
        if run.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        if run.compile:
            model.compile_repeated_blocks(dynamic=False)
        self.sizes = {name: value for name, value in dict(model.config).items() if not name.startswith("_")}
        self.sizes.pop("attention_backend", None)  # a kernel, which resuming may change
        self.engine = make_engine(self.accelerator, model, run, optimizer)
        if companion is not None:
            companion.start(self.accelerator)
        self.average = Average(self.engine.masters, run.ema_decay)
        self.vitals = Vitals(self.accelerator.device)
        self.step = 0
        self.saved_at: int | None = None
        self.signal: int | None = None
        self.votes = (False, False)
        self.batch: list[dict[str, Tensor]] = []
        self.resume()

    @property
    def bare_model(self) -> nn.Module:
        return self.engine.module

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
            validate: step -> numbers and panels (uint8 (3, height, width)) for TensorBoard; it runs with EMA weights.
            export: write the averaged weights to a folder; collective. Called every ``export_every`` steps.

        Raises:
            LavinError: ten steps in a row had no finite loss or gradient.
            SystemExit: SIGTERM (143) or Ctrl-C (130), once a checkpoint is written.
        """
        if self.accelerator.is_main_process:
            self.accelerator.init_trackers("")
        bar = tqdm(total=self.run.max_steps, initial=self.step, disable=not sys.stderr.isatty(), desc="train")
        sums, counted, since = {}, 0, time.perf_counter()
        self.started_at = self.step, since
        with self.signals_noted():
            last = self.finished()
            while not last:
                for name, value in self.train_step(compute_loss).items():
                    sums[name] = sums.get(name, 0.0) + value
                counted, self.step = counted + 1, self.step + 1
                bar.update()
                last = self.finished()
                if self.step % self.run.log_every == 0 or last:
                    finite = float(sums.pop("finite"))
                    means = {name: float(total) / max(finite, 1) for name, total in sums.items()}
                    means["steps_per_s"] = counted / (time.perf_counter() - since)
                    counts = {"skipped_steps": float(self.vitals.skipped)}
                    if self.companion is not None:
                        counts |= self.companion.counts()
                    self.log(means | counts if finite else counts, bar)
                    sums, counted, since = {}, 0, time.perf_counter()
                stopped = self.interrupted()
                validated = validate and self.run.validate_every and not stopped
                if validated and (self.step % self.run.validate_every == 0 or last):
                    self.validate(validate, bar)
                    since = time.perf_counter()
                if self.step % self.run.checkpoint_every == 0 or last:
                    self.save()
                if export and self.run.export_every and self.step % self.run.export_every == 0 and not stopped:
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
        return {name: torch.where(finite, value, 0.0) for name, value in logs.items()} | {"finite": finite.float()}

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

    def log(self, values: dict[str, float], bar: tqdm) -> None:
        self.accelerator.log(values, step=self.step)
        if self.accelerator.is_main_process:
            line = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            bar.set_postfix_str(line) if not bar.disable else print(f"step {self.step}  {line}", flush=True)

    def validate(self, validate, bar: tqdm) -> None:
        """Numbers and panels with the averaged weights; the trained ones are put back."""
        with self.engine.shown(self.average.values), torch.no_grad():
            self.bare_model.eval()
            try:
                values, panels = validate(self.step)
            finally:
                self.bare_model.train()
        self.log({f"validation/{name}": value for name, value in values.items()}, bar)
        if self.accelerator.is_main_process:
            writer = self.accelerator.get_tracker("tensorboard", unwrap=True)
            for name, panel in panels.items():
                writer.add_image(name, panel.cpu().numpy(), self.step)

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

    @contextmanager
    def signals_noted(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the run after the step that they fall in; in a single process a second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def note(number, _):
            self.signal = number
            if self.accelerator.num_processes == 1:  # launchers pass a Ctrl-C on that their ranks have got already
                signal.signal(number, before[number])

        for number in SIGNALS:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # --- Checkpoints --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that resuming needs, as whole weights by name; collective, and complete on the main process alone."""
        keep = self.accelerator.is_main_process

        def named(parts) -> dict[str, Tensor]:
            return {name: full.cpu() for name, full in self.engine.whole(parts) if keep}

        others = {name: value for name, value in self.bare_model.state_dict().items()} if keep else {}
        moments = {name: named(self.engine.moments(name)) for name in MOMENTS}
        state = {
            "model": others | named(self.engine.masters),
            "average": named(self.average.values),
            "optimizer": {"step": self.engine.adamw.state[self.engine.masters[0]]["step"].cpu(), **moments},
        }
        return state if self.companion is None else state | {"companion": self.companion.state()}

    def save(self) -> None:
        """Write a checkpoint; collective. A full disk costs the checkpoint, not the run."""
        if self.saved_at == self.step:
            return
        state = self.state()
        if self.accelerator.is_main_process:
            record = {"model": self.sizes, "skipped_steps": int(self.vitals.skipped), "config": self.record}
            folder = self.folder / "checkpoints"
            try:
                checkpoint.save(folder, self.step, state, record, self.run.keep_checkpoints)
            except OSError as error:
                print(f"warning: no checkpoint at step {self.step}: {error}; training goes on", flush=True)
        self.saved_at = self.step
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Continue from the newest whole checkpoint of the run's folder, if there is one."""
        found = [None]
        if self.accelerator.is_main_process:
            found = [checkpoint.newest(self.folder / "checkpoints")]
        (newest,) = broadcast_object_list(found) if self.accelerator.num_processes > 1 else found
        if newest is None:
            return
        if newest.step > self.run.max_steps:
            raise InputError(
                f"{self.folder} is at step {newest.step}, past run.max_steps={self.run.max_steps}; raise it"
            )
        if changes := differences(newest.record["model"], self.sizes):
            raise InputError(
                f"{self.folder} holds a run of another model ({', '.join(changes)}); choose another output_dir"
            )
        state = newest.state()
        try:
            self.engine.load(state["model"])
            self.engine.put(self.average.values, state["average"])
            for name in MOMENTS:
                self.engine.put(self.engine.moments(name), state["optimizer"][name])
            if self.companion is not None and "companion" in state:  # without, it begins now
                self.companion.restore(state["companion"])
        except (RuntimeError, ValueError, KeyError) as error:
            text = str(error).splitlines()[0]
            raise InputError(
                f"{self.folder} holds a run of another model ({text}); choose another output_dir"
            ) from error
        for master in self.engine.masters:
            self.engine.adamw.state[master]["step"].copy_(state["optimizer"]["step"])
        self.vitals.skipped = self.vitals.skipped + newest.record["skipped_steps"]
        self.step = self.saved_at = newest.step
        self.accelerator.print(f"resumed {self.folder} at step {self.step}", flush=True)

    # --- Exports ------------------------------------------------------------------------------------------------------

    def averaged_model(self) -> nn.Module | None:
        """A float32 copy of the model with the averaged weights, on the CPU; collective, None on all ranks but 0."""
        weights = dict(self.bare_model.state_dict())
        for name, full in self.engine.whole(self.average.values):
            weights[name] = full.cpu() if self.accelerator.is_main_process else None
        if not self.accelerator.is_main_process:
            return None
        model = build(type(self.bare_model), self.sizes, self.folder)
        model.load_state_dict({name: value.float().cpu().clone() for name, value in weights.items()}, assign=True)
        return model

    def export(self, export: Callable[[Path], None]) -> None:
        """Write the averaged weights to ``exports/step-XXXXXXXX`` and remove older ones; collective."""
        folder = self.folder / "exports"
        aside = folder / f".step-{self.step:08d}.partial"
        try:
            if self.accelerator.is_main_process:
                folder.mkdir(parents=True, exist_ok=True)
                checkpoint.remove_leftovers(folder)
            export(aside)
            if self.accelerator.is_main_process:
                final = folder / f"step-{self.step:08d}"
                checkpoint.set_aside(final)
                aside.rename(final)
                checkpoint.remove_all_but(folder, "step-*", self.run.keep_exports)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            print(f"warning: no export at step {self.step}: {error}; training goes on", flush=True)


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two models' sizes, in words."""
    now = json.loads(json.dumps(now))
    names = sorted(saved.keys() | now.keys())
    return [f"model.{n} was {saved.get(n)} and is {now.get(n)}" for n in names if saved.get(n) != now.get(n)]
