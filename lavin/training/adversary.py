"""The discriminator while it trains beside the ST-VAE: its optimizer, its part of checkpoints, a watch for collapse."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.func import functional_call
from torch.optim import AdamW

from lavin.errors import LavinError
from lavin.training.discriminator import Discriminator, accuracy, gap, split_verdicts
from lavin.training.engine import MOMENTS, Engine
from lavin.training.stvae_config import DiscriminatorConfig
from lavin.training.stvae_losses import hinge_discriminator, hinge_generator, r1_penalty

WON_ACCURACY, WON_LOSS = 0.98, 0.02
"""Beyond both it tells every patch with a margin of 1: its own gradient is zero and it learns nothing any more."""
LOST_GAP = 0.02
"""Below this gap between its mean logits, or the wrong way round, it tells nothing."""


class Adversary:
    """A ``Companion`` of the trainer: the discriminator, which takes its own step after each of the ST-VAE's.

    Before step ``start`` it neither learns nor is heard. A step whose loss or gradient is not finite leaves it as it
    was and is counted.

    Args:
        config: of the discriminator.
        clips: whether clips are trained on.
        accumulation: forward passes a step.
    """

    def __init__(self, config: DiscriminatorConfig, clips: bool, accumulation: int):
        self.config, self.accumulation = config, accumulation
        self.discriminator = Discriminator(config.channels, config.layers, clips)
        self.passes = 0
        self.seen: Tensor | float = 0.0
        self.warned: set[str] = set()

    def start(self, accelerator: Accelerator) -> None:
        """Take part in a run of these processes."""
        self.accelerator = accelerator
        adamw = AdamW(
            self.discriminator.parameters(),
            lr=self.config.learning_rate,
            betas=tuple(self.config.betas),
            weight_decay=0.0,
            fused=True,
        )
        self.engine = Engine(accelerator, self.discriminator, adamw, self.config.max_grad_norm)
        self.watch = Watch(self.config.watch, accelerator.device)

    def plays(self, step: int) -> bool:
        """Whether it learns and is heard in this step."""
        return step >= self.config.start

    def loss_for(self, decoded: Tensor) -> Tensor:
        """L_G of reconstructions; its gradient reaches them and not the discriminator."""
        weights = {name: weight.detach() for name, weight in self.engine.module.named_parameters()}
        with self.accelerator.autocast():
            verdicts = functional_call(self.engine.module, weights, (decoded,))
        return hinge_generator([logits.float() for logits in verdicts])

    def learn(self, clip: Tensor, decoded: Tensor, step: int) -> None:
        """One forward and backward pass: tell clips from their reconstructions."""
        self.passes += 1
        config, decoded = self.config, decoded.detach()
        with self.engine.micro_step(last=self.passes == self.accumulation):
            with self.accelerator.autocast():
                # In one batch: several passes before one backward pass would be lost on the other ranks.
                real, fake = split_verdicts(self.engine.model(torch.cat([clip, decoded])))
            real, fake = ([logits.float() for logits in half] for half in (real, fake))
            hinge = loss = hinge_discriminator(real, fake)
            if config.r1_weight and step % config.r1_every == 0:
                loss = loss + config.r1_weight * config.r1_every * r1_penalty(self.engine.module, clip)
            self.engine.backward(loss / self.accumulation)
        seen = torch.stack([loss, hinge, accuracy(real, fake), gap(real, fake)]).detach()
        self.seen = self.seen + seen / self.accumulation

    def step(self, step: int) -> dict[str, Tensor]:
        """Update the weights, if they were taught anything; what to log. Collective.

        Raises:
            LavinError: no step since the watch last looked was finite.
        """
        if not self.passes:
            return {}
        norm = self.engine.clip()
        loss, hinge, right, between = self.accelerator.reduce(self.seen, reduction="mean").unbind()
        skip = 1 - (loss.isfinite() & norm.isfinite()).float()
        self.engine.step(skip)
        self.passes, self.seen = 0, 0.0
        self.watch.update(skip, hinge, right, between)
        if (step + 1) % self.config.watch == 0:
            self.look(step + 1)
        logs = {"discriminator_loss": loss, "discriminator_accuracy": right, "logit_gap": between}
        return {name: torch.where(skip > 0, 0.0, value) for name, value in logs.items()}

    def counts(self) -> dict[str, float]:
        """Steps skipped and windows collapsed, of the whole run."""
        skipped, collapsed = self.watch.sums[4:].tolist()
        return {"discriminator_skipped": skipped, "discriminator_collapsed": collapsed}

    def look(self, step: int) -> None:
        """Warn of a collapse, once of each kind."""
        found = self.watch.look()
        kind = found and found.partition(":")[0]  # what follows has numbers in it
        if found is None or kind in self.warned:
            return
        self.warned.add(kind)
        self.accelerator.print(f"warning: at step {step} the discriminator {found}", flush=True)

    # --- Checkpoints ----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that resuming needs, on the CPU."""
        moments = {name: [moment.cpu() for moment in self.engine.moments(name)] for name in MOMENTS}
        weights = {name: value.cpu() for name, value in self.engine.module.state_dict().items()}
        step = self.engine.adamw.state[self.engine.masters[0]]["step"].cpu()
        return {"model": weights, "step": step, "watch": self.watch.sums.cpu(), **moments}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self.engine.load(state["model"])
        for name in MOMENTS:
            for moment, saved in zip(self.engine.moments(name), state[name], strict=True):
                moment.copy_(saved)
        for master in self.engine.masters:
            self.engine.adamw.state[master]["step"].copy_(state["step"])
        self.watch.sums.copy_(state["watch"])


class Watch:
    """Running sums of how a discriminator does, on its device; read now and then.

    Args:
        steps: a window has.
    """

    def __init__(self, steps: int, device: torch.device):
        self.steps = steps
        self.sums = torch.zeros(6, device=device)
        """Of the window: steps, hinge losses, accuracies, gaps; of the run: skipped steps, collapsed windows."""

    def update(self, skip: Tensor, hinge: Tensor, right: Tensor, between: Tensor) -> None:
        """Count a step; the numbers of a skipped one are not."""
        values = torch.stack([torch.ones_like(hinge), hinge, right, between])
        self.sums[:4] += torch.where(skip > 0, 0.0, values)
        self.sums[4] += skip

    def look(self) -> str | None:
        """End the window; a collapse in words, or None.

        Raises:
            LavinError: every step of the window was skipped.
        """
        steps, hinge, right, between, skipped, _ = self.sums.tolist()
        self.sums[:4] = 0
        if not steps:
            raise LavinError(
                f"the discriminator's loss or gradient was not finite in {self.steps} steps in a row ({skipped:.0f} in "
                "all); lower losses.discriminator.learning_rate and resume"
            )
        hinge, right, between = hinge / steps, right / steps, between / steps
        won, lost = right > WON_ACCURACY and hinge < WON_LOSS, between < LOST_GAP
        self.sums[5] += float(won or lost)
        if won:
            return (
                f"has won: it tells {right:.0%} of the patches (loss {hinge:.3f}) and learns no more; set "
                "losses.discriminator.r1_weight=10 or lower losses.discriminator.learning_rate"
            )
        if lost:
            return (
                f"tells nothing: its logits for real and decoded patches differ by {between:.3f}; raise "
                "losses.discriminator.learning_rate, or start it later"
            )
        return None
