"""The loop that both trainings share: accelerate, AdamW, EMA, checkpoints and resume, TensorBoard, progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, broadcast
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from lavin.errors import InputError
from lavin.training import checkpoint
from lavin.training.config import OptimizerConfig, RunConfig


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


class Trainer:
    """One model, trained to ``max_steps`` from its newest checkpoint on.

    Args:
        model: what is trained.
        run, optimizer: configurations.
        record: the resolved configuration, saved in every checkpoint.
    """

    def __init__(self, model: nn.Module, run: RunConfig, optimizer: OptimizerConfig, record: dict[str, Any]):
        self.run, self.schedule, self.record = run, optimizer, record
        self.folder = Path(run.output_dir)
        self.accelerator = Accelerator(
            mixed_precision="no" if run.precision == "fp32" else run.precision,
            log_with="tensorboard",
            cpu=not torch.cuda.is_available(),
            # The last block's condition output is read by nobody: some of its weights have no gradient.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
            project_config=ProjectConfiguration(project_dir=str(self.folder), logging_dir=str(self.folder / "logs")),
        )
        if run.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        if run.compile:
            model.compile_repeated_blocks(dynamic=False)
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        adamw = torch.optim.AdamW(
            weights,
            lr=optimizer.learning_rate,
            betas=tuple(optimizer.betas),
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self.model, self.optimizer = self.accelerator.prepare(model, adamw)
        self.ema = EMAModel(self.weights, decay=run.ema_decay, use_ema_warmup=True, foreach=True)
        self.step = 0
        self.mean_loss: Tensor | None = None
        self.resume()

    @property
    def bare_model(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)

    @property
    def weights(self) -> list[nn.Parameter]:
        """What is trained and averaged; a frozen linear shortcut is not."""
        return [parameter for parameter in self.bare_model.parameters() if parameter.requires_grad]

    def rngs(self, step: int, micro_step: int = 0) -> tuple[np.random.Generator, torch.Generator]:
        """Generators of one forward pass: for the data, and for timesteps and noise."""
        number = 0 if self.run.overfit_batch else step * self.run.accumulation + micro_step
        rank = self.accelerator.process_index
        noise_number = step * self.run.accumulation + micro_step
        noise = torch_rng(self.run.seed, noise_number, rank, self.accelerator.device)
        return numpy_rng(self.run.seed, number, rank), noise

    def fit(
        self,
        compute_loss: Callable[[nn.Module, np.random.Generator, torch.Generator], tuple[Tensor, dict[str, Tensor]]],
        validate: Callable[[int], tuple[dict[str, float], dict[str, Tensor]]] | None = None,
    ) -> None:
        """Train until ``max_steps``.

        Args:
            compute_loss: (model, data generator, noise generator) -> scalar loss, and what else to log.
            validate: step -> numbers and panels (uint8 (3, height, width)) for TensorBoard; it runs with EMA weights.
        """
        if self.accelerator.is_main_process:
            self.accelerator.init_trackers("")
        bar = tqdm(total=self.run.max_steps, initial=self.step, disable=not sys.stderr.isatty(), desc="train")
        sums, counted, since = {}, 0, time.perf_counter()
        self.started_at = self.step, since
        last = self.finished()
        while not last:
            for name, value in self.train_step(compute_loss).items():
                sums[name] = sums.get(name, 0.0) + value
            counted, self.step = counted + 1, self.step + 1
            bar.update()
            last = self.finished()
            if self.step % self.run.log_every == 0 or last:
                means = {name: float(total) / counted for name, total in sums.items()}
                means["steps_per_s"] = counted / (time.perf_counter() - since)
                self.log(means, bar)
                sums, counted, since = {}, 0, time.perf_counter()
            if validate and self.run.validate_every and (self.step % self.run.validate_every == 0 or last):
                self.validate(validate, bar)
                since = time.perf_counter()
            if self.step % self.run.checkpoint_every == 0 or last:
                self.save()
        bar.close()
        self.accelerator.end_training()

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

    def finished(self) -> bool:
        """Whether the last step is done; all ranks agree, by the main one's clock."""
        if self.run.max_minutes is None:
            return self.step >= self.run.max_steps
        over = self.step >= self.last_step()
        if self.accelerator.num_processes == 1:
            return over
        return bool(broadcast(torch.tensor([over], dtype=torch.int32, device=self.accelerator.device)).item())

    def train_step(self, compute_loss) -> dict[str, Tensor]:
        """One optimizer step, over ``accumulation`` forward passes."""
        factor = learning_rate_factor(self.step, self.schedule, self.last_step())
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate * factor
        logs: dict[str, Tensor] = {}
        for micro_step in range(self.run.accumulation):
            loss, extra = compute_loss(self.model, *self.rngs(self.step, micro_step))
            self.accelerator.backward(loss / self.run.accumulation)
            for name, value in {"loss": loss.detach(), **extra}.items():
                logs[name] = logs.get(name, 0.0) + value / self.run.accumulation
        self.check_finite()  # the step before: asking for this one's loss would make the device wait
        self.mean_loss = self.accelerator.reduce(logs["loss"], reduction="mean")
        logs["gradient_norm"] = self.accelerator.clip_grad_norm_(self.weights, self.schedule.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.weights)
        return logs

    def check_finite(self) -> None:
        """Stop all ranks if the newest loss is none on any of them: nothing more is saved.

        Raises:
            FloatingPointError: it is infinite or NaN.
        """
        if self.mean_loss is not None and not self.mean_loss.isfinite():
            raise FloatingPointError(f"loss is {self.mean_loss.item()} at step {self.step}; resume from {self.folder}")

    def log(self, values: dict[str, float], bar: tqdm) -> None:
        self.accelerator.log(values, step=self.step)
        if self.accelerator.is_main_process:
            line = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            bar.set_postfix_str(line) if not bar.disable else print(f"step {self.step}  {line}", flush=True)

    def validate(self, validate, bar: tqdm) -> None:
        """Numbers and panels with the averaged weights; the trained ones are put back."""
        self.ema.store(self.weights)
        self.ema.copy_to(self.weights)
        self.bare_model.eval()
        try:
            with torch.no_grad():
                values, panels = validate(self.step)
        finally:
            self.bare_model.train()
            self.ema.restore(self.weights)
        self.log({f"validation/{name}": value for name, value in values.items()}, bar)
        if self.accelerator.is_main_process:
            writer = self.accelerator.get_tracker("tensorboard", unwrap=True)
            for name, panel in panels.items():
                writer.add_image(name, panel.cpu().numpy(), self.step)

    def save(self) -> None:
        """Write a checkpoint; collective."""
        self.check_finite()
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            state = {
                "model": self.bare_model.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            folder = self.folder / "checkpoints"
            checkpoint.save(folder, self.step, state, {"config": self.record}, self.run.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Continue from the newest whole checkpoint of the run's folder, if there is one."""
        found = checkpoint.load_latest(self.folder / "checkpoints", self.accelerator.device)
        if found is None:
            return
        step, state = found
        if step > self.run.max_steps:
            raise InputError(f"{self.folder} is at step {step}, past run.max_steps={self.run.max_steps}; raise it")
        try:
            self.bare_model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.ema.load_state_dict(state["ema"])
        except (RuntimeError, ValueError, KeyError) as error:
            text = str(error).splitlines()[0]
            raise InputError(
                f"{self.folder} holds a run of another model ({text}); choose another run.output_dir"
            ) from error
        self.ema.to(self.accelerator.device)
        self.step = step
        self.accelerator.print(f"resumed {self.folder} at step {step}", flush=True)

    def export(self, folder: str | Path) -> None:
        """Save the averaged weights as ``save_pretrained`` writes them: float32 safetensors and a config."""
        if self.accelerator.is_main_process:
            self.ema.store(self.weights)
            self.ema.copy_to(self.weights)
            self.bare_model.save_pretrained(folder)
            self.ema.restore(self.weights)
