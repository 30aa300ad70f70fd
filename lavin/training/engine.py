"""Who holds the weights while they train: every rank all of them, or with ZeRO-2 each rank its part of the optimizer.

Both engines name what the optimizer updates ``masters``, float32; averages and moments have the same layout. ``whole``
turns such a layout into full weights by name and ``put`` does the reverse: a checkpoint is the same file whichever
engine wrote it, and any number of ranks reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    ProjectConfiguration,
)
from torch import Tensor, nn
from torch.optim import AdamW

from lavin.errors import InputError
from lavin.memory import keep_freed_memory
from lavin.training.config import OptimizerConfig, RunConfig

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each weight."""


def make_accelerator(run: RunConfig) -> Accelerator:
    """Accelerate as the launcher set it up; on CPUs ranks talk by gloo.

    Raises:
        InputError: DeepSpeed with another stage than ZeRO-2, or with offloading.
    """
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    cpu = not torch.cuda.is_available()
    with_deepspeed = DeepSpeedSettings.asked_for()
    AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
    if cpu:
        keep_freed_memory()
    if with_deepspeed:
        DeepSpeedSettings.check_installed()
        if cpu:
            handlers.append(InitProcessGroupKwargs(backend="gloo"))
    accelerator = Accelerator(
        mixed_precision="no" if run.precision == "fp32" else run.precision,
        log_with=list(run.trackers) or None,
        cpu=cpu and not with_deepspeed,
        kwargs_handlers=handlers,
        project_config=ProjectConfiguration(project_dir=run.output_dir, logging_dir=f"{run.output_dir}/logs"),
    )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        DeepSpeedSettings.check(accelerator.state.deepspeed_plugin)
    return accelerator


class DeepSpeedSettings:
    """What `accelerate launch` was told about DeepSpeed, and what of it trains here."""

    @staticmethod
    def asked_for() -> bool:
        from accelerate.utils import parse_flag_from_env

        return parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")

    @staticmethod
    def check_installed() -> None:
        from accelerate.utils import is_deepspeed_available

        if not is_deepspeed_available():
            raise InputError("DeepSpeed is not installed; pip install 'lavin[train]', or launch without it")

    @staticmethod
    def check(plugin) -> None:
        stage, offload = plugin.zero_stage, plugin.deepspeed_config["zero_optimization"].get("offload_optimizer", {})
        if stage != 2:
            raise InputError(
                f"DeepSpeed ZeRO-{stage} is not supported: averaged weights need whole layers; "
                "use configs/accelerate/zero2.yaml"
            )
        if offload.get("device", "none") != "none":
            raise InputError("DeepSpeed's optimizer offload is not supported; set offload_optimizer_device: none")

    @staticmethod
    def fill(plugin, run: RunConfig, optimizer: OptimizerConfig) -> None:
        """Hand our configuration to DeepSpeed, which clips and accumulates by itself."""
        plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": run.batch_size,
            "gradient_accumulation_steps": run.accumulation,
            "gradient_clipping": optimizer.max_grad_norm,
        }


def make_engine(accelerator: Accelerator, model: nn.Module, run: RunConfig, optimizer: OptimizerConfig) -> Engine:
    """The engine that the launcher's configuration asks for, its optimizer at step 0."""
    adamw = AdamW(
        [weight for weight in model.parameters() if weight.requires_grad],
        lr=optimizer.learning_rate,
        betas=tuple(optimizer.betas),
        weight_decay=optimizer.weight_decay,
        fused=True,
    )
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return Engine(accelerator, model, adamw, optimizer.max_grad_norm)
    DeepSpeedSettings.fill(accelerator.state.deepspeed_plugin, run, optimizer)
    accelerator.gradient_state.plugin_kwargs["num_steps"] = run.accumulation
    return ZeroEngine(accelerator, model, adamw, optimizer.max_grad_norm)


class Engine:
    """All weights on every rank: one process, or several that average their gradients.

    Args:
        model: float32, on any device.
        adamw: fused, over the weights that want gradients.
        max_grad_norm: gradients are clipped to it.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, adamw: AdamW, max_grad_norm: float):
        self.accelerator, self.adamw, self.max_grad_norm = accelerator, adamw, max_grad_norm
        self.model, _ = accelerator.prepare(model, adamw)
        self.masters: list[Tensor] = [weight for _, weight in self.trained()]
        self.reset()

    @property
    def module(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """The module's weights that want gradients, by name."""
        return [(name, weight) for name, weight in self.module.named_parameters() if weight.requires_grad]

    def reset(self) -> None:
        """AdamW's state before the first step."""
        for master in self.masters:
            step = torch.zeros((), dtype=torch.float32, device=master.device)
            moments = {name: torch.zeros_like(master, requires_grad=False) for name in MOMENTS}
            self.adamw.state[master] = {"step": step, **moments}

    # --- A step -------------------------------------------------------------------------------------------------------

    def micro_step(self, last: bool):
        """Context of a forward and backward pass; gradients are averaged over ranks in the last one of a step."""
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # accelerate's own would divide by an accumulation of the launcher's

    def clip(self) -> Tensor:
        """Clip the gradients; their norm before."""
        for master in self.masters:
            if master.grad is None:  # nobody reads this weight; it decays nevertheless, as it does with ZeRO
                master.grad = torch.zeros_like(master)
        return nn.utils.clip_grad_norm_(self.masters, self.max_grad_norm, foreach=True)

    def step(self, skip: Tensor) -> None:
        """Update the weights, unless ``skip`` is 1: AdamW then leaves them, its moments and its count alone."""
        self.adamw.found_inf = skip
        self.adamw.step()
        self.adamw.zero_grad()

    # --- Layouts ------------------------------------------------------------------------------------------------------

    def moments(self, name: str) -> list[Tensor]:
        """One of AdamW's moments, in the masters' layout."""
        return [self.adamw.state[master][name] for master in self.masters]

    def whole(self, parts: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Full float32 weights by name of something in the masters' layout; collective."""
        for (name, _), part in zip(self.trained(), parts, strict=True):
            yield name, part.detach()

    @torch.no_grad()
    def put(self, parts: Sequence[Tensor], named: Mapping[str, Tensor]) -> None:
        """Fill something in the masters' layout from full weights by name."""
        for (name, _), part in zip(self.trained(), parts, strict=True):
            part.copy_(named[name])

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Give the module its state dict, and the masters theirs."""
        self.module.load_state_dict(weights)

    @contextmanager
    def shown(self, parts: Sequence[Tensor]) -> Iterator[None]:
        """The module with other weights, such as their average; its own are put back."""
        own = [master.detach().clone() for master in self.masters]
        self.put(self.masters, dict(self.whole(parts)))
        try:
            yield
        finally:
            self.put(self.masters, dict(zip((name for name, _ in self.trained()), own, strict=True)))


class ZeroEngine(Engine):
    """DeepSpeed ZeRO-2: every rank has the module in the run's precision and a flat part of masters and moments."""

    def __init__(self, accelerator: Accelerator, model: nn.Module, adamw: AdamW, max_grad_norm: float):
        self.accelerator, self.adamw, self.max_grad_norm = accelerator, adamw, max_grad_norm
        exact = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        self.model, _ = accelerator.prepare(model, adamw)
        self.zero = self.model.optimizer
        self.masters = list(self.zero.single_partition_of_fp32_groups)
        self.reset()
        self.load(exact)  # DeepSpeed makes the masters of weights that it has rounded

    @contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        self.model.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        self.model.backward(loss, scale_wrt_gas=False)

    def clip(self) -> Tensor:
        """The gradients' norm; DeepSpeed clips in its step."""
        squares = torch.zeros((), device=self.accelerator.device)
        for gradients in self.zero.averaged_gradients.values():
            for gradient in gradients:
                squares += gradient.float().square().sum()
        return self.accelerator.reduce(squares, reduction="sum").sqrt()

    def step(self, skip: Tensor) -> None:
        self.adamw.found_inf = skip
        self.model.step()

    def whole(self, parts: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, weight in self.trained():
            full = torch.zeros(weight.numel(), device=weight.device)
            fragment = weight._hp_mapping
            if fragment is not None:  # some of this weight is this rank's
                here, there = fragment.hp_fragment_address, fragment.lp_fragment_address
                part = parts[fragment.param_group_index].detach().narrow(0, here.start, here.numel)
                full.narrow(0, there.start, there.numel).copy_(part)
            torch.distributed.all_reduce(full)
            yield name, full.view_as(weight)

    @torch.no_grad()
    def put(self, parts: Sequence[Tensor], named: Mapping[str, Tensor]) -> None:
        for name, weight in self.trained():
            fragment = weight._hp_mapping
            if fragment is not None:
                here, there = fragment.hp_fragment_address, fragment.lp_fragment_address
                part = parts[fragment.param_group_index].narrow(0, here.start, here.numel)
                part.copy_(named[name].flatten().narrow(0, there.start, there.numel))

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict(weights)
        self.put(self.masters, weights)

    @contextmanager
    def shown(self, parts: Sequence[Tensor]) -> Iterator[None]:
        self.show(parts)
        try:
            yield
        finally:
            self.show(self.masters)

    @torch.no_grad()
    def show(self, parts: Sequence[Tensor]) -> None:
        weights = dict(self.trained())
        for name, full in self.whole(parts):
            weights[name].copy_(full)
