"""The state of a run and its files: model, optimizer and average; checkpoints, resuming, exports."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from lavin.errors import InputError
from lavin.models.weights import build
from lavin.training import checkpoint
from lavin.training.average import Average
from lavin.training.companion import Companion
from lavin.training.engine import MOMENTS, make_accelerator, make_engine
from lavin.training.run_config import OptimizerConfig, RunConfig
from lavin.training.vitals import Vitals


class SavedRun:
    """A model with its optimizer and average, as its newest checkpoint left them.

    Args:
        model: what is trained.
        run, optimizer: configurations.
        record: the resolved configuration, saved in every checkpoint.
        many_shapes: whether batches differ in shape: compiled blocks then take any after the first, instead of being
            compiled for each, of which torch gives up after eight.
        companion: what trains beside it; its state is saved with the model's.
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
        self.run, self.schedule, self.record, self.companion = run, optimizer, record, companion
        self.folder = Path(run.output_dir)
        self.accelerator = make_accelerator(run)
        if run.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        if run.compile:
            model.compile_repeated_blocks(dynamic=None if many_shapes else False)
        self.sizes = {name: value for name, value in dict(model.config).items() if not name.startswith("_")}
        self.sizes.pop("attention_backend", None)  # a kernel, which resuming may change
        self.engine = make_engine(self.accelerator, model, run, optimizer)
        if companion is not None:
            companion.start(self.accelerator)
        self.average = Average(self.engine.masters, run.ema_decay)
        self.vitals = Vitals(self.accelerator.device)
        self.step = 0
        self.saved_at: int | None = None
        self.resume()

    @property
    def bare_model(self) -> nn.Module:
        return self.engine.module

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
