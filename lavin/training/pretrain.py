"""Training of the J-DiT: flow matching on contexts, their latents computed once and cached."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lavin import context, flow
from lavin.bundled import COMPONENTS, INDEX, TRAINING_RECORD, find_model
from lavin.data.mixture import Pool, draw_context
from lavin.data.stream import ContextStream
from lavin.encoded import fingerprint
from lavin.errors import InputError
from lavin.models.jdit import JDiT
from lavin.models.stvae import STVAE
from lavin.models.weights import load_component
from lavin.pipeline import LavinPipeline
from lavin.training.config import PretrainConfig, to_dict
from lavin.training.latents import LatentCache, build_cache, load_or_build, load_stvae
from lavin.training.panels import panel
from lavin.training.streaming import LatentRing, shares
from lavin.training.trainer import Trainer, deaf_to_interrupts, numpy_rng, torch_rng

VALIDATION_SEED = 1_000_003
"""Fixed draws of the validation: the same contexts, timesteps and noise at every step."""


def start_from(jdit: JDiT, model: str) -> None:
    """Copy the weights of a model's J-DiT.

    Raises:
        InputError: no such model, or it has other sizes.
    """
    weights = load_component(JDiT, find_model(model) / "jdit", torch.float32).state_dict()
    try:
        jdit.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise InputError(f"init: the J-DiT of '{model}' has other sizes than 'model' says ({reason})") from error


def cached(config: PretrainConfig, stvae: STVAE, folder: Path, split: str) -> LatentCache:
    """Latents of a split's contexts on scenes; built once and found again by what they depend on."""
    cache, validation = config.cache, split == "validation"
    contexts = cache.validation_contexts if validation else cache.contexts
    scenes = config.scenes.validation_scenes if validation else config.scenes.train_scenes
    tasks = config.tasks.on_scenes(config.scenes)
    key = {
        "tasks": list(tasks.probabilities()),
        "config": [to_dict(tasks), cache.pairs, contexts, scenes, to_dict(config.scenes)],
        "split": split,
        "seed": config.run.seed,
        "precision": config.run.precision,
        "stvae": [fingerprint(stvae), stvae.config.shift, stvae.config.scale],
    }

    def build() -> LatentCache:
        pool = Pool(config.scenes.source(split), range(scenes))
        return build_cache(stvae, pool, tasks, contexts, cache.pairs, config.run.seed, config.run.precision)

    return load_or_build(folder / f"latents-{split}", key, build)


def streamed(config: PretrainConfig, stvae: STVAE, trainer: Trainer) -> LatentRing:
    """Latents of contexts that workers draw from now on: a resumed run goes on with ones that it has not seen."""
    stream, accelerator = config.stream, trainer.accelerator
    source = ContextStream(
        shares(config.scenes, config.tasks, stream, config.photos),
        list(config.tasks.probabilities()),
        config.cache.pairs,
        config.tasks.held_out(),
        config.run.seed,
        stream.batch,
        first=trainer.step * config.run.accumulation * stream.fresh // stream.batch,
        rank=accelerator.process_index,
        ranks=accelerator.num_processes,
    )
    with deaf_to_interrupts():
        ring = LatentRing(stvae, source, stream.workers, config.cache.contexts, config.run.precision)
    ring.advance(min(config.run.batch_size, config.cache.contexts))
    return ring


def sequence_loss(
    model: torch.nn.Module,
    condition: Tensor,
    targets: Tensor,
    pairs: int,
    causal: bool,
    generator: torch.Generator,
    config: PretrainConfig,
    drop: bool = False,
) -> Tensor:
    """Flow-matching loss of a batch of sequences, one number per target.

    Args:
        condition: x1 y1 ... xn, (batch, channels, all frames, height, width).
        targets: y1 ... yn, (batch, channels, n * frames, height, width).
        causal: train all n targets in parallel; otherwise the last one, or with ``drop`` that without its pairs.

    Returns:
        (batch, pairs) for causal models, (batch,) for full ones.
    """
    frames = targets.shape[2] // pairs
    clips = context.clip_frames(condition.shape[2], frames, pairs)
    model = partial(model, clip_frames=clips)
    if causal:
        t = flow.draw_timesteps((len(targets), pairs), generator, targets.device, config.timestep_mean)
        return flow.loss(model, condition, targets, t, generator, config.l1_weight)
    if drop:
        condition = context.unconditional(condition[:, :, -clips[-1] :])
        model = partial(model, clip_frames=(1, clips[-1]))
    t = flow.draw_timesteps(len(targets), generator, targets.device, config.timestep_mean)
    return flow.loss(model, condition, targets[:, :, -frames:], t, generator, config.l1_weight)


def validation_loss(model: JDiT, cache: LatentCache, config: PretrainConfig, device: torch.device) -> dict[str, float]:
    """Mean loss over the held-out contexts at fixed timesteps and noise, and by task with the most pairs."""
    causal = model.config.attention == "causal"
    losses: dict[str, list[float]] = {}
    for number in range(max(1, len(cache) // config.run.batch_size)):
        rng = numpy_rng(VALIDATION_SEED, number, 0)
        condition, targets, task_ids = cache.sequences(rng, config.run.batch_size, config.train_pairs)
        generator = torch_rng(VALIDATION_SEED, number, 0, device)
        loss = sequence_loss(
            model, condition.to(device), targets.to(device), config.train_pairs, causal, generator, config
        )
        losses.setdefault("loss", []).extend(loss.flatten().tolist())
        last = loss[:, -1] if causal else loss
        for task_id, value in zip(task_ids, last.tolist(), strict=True):
            losses.setdefault(f"loss_{cache.tasks[int(task_id)]}", []).append(value)
    return {name: float(np.mean(values)) for name, values in losses.items()}


def train(config: PretrainConfig) -> Path:
    """Train a J-DiT and export it with its ST-VAE to ``run.output_dir``, beside checkpoints, logs and latents.

    Returns:
        That folder: ``LavinPipeline.from_pretrained`` and ``lavin infer --model`` read it.
    """
    torch.manual_seed(config.run.seed)
    stvae = load_stvae(config.stvae)
    folder = Path(config.run.output_dir)
    jdit = JDiT(**{"latent_channels": stvae.config.latent_channels, **config.model})
    jdit.use_attention(config.run.attention)
    if config.init:
        start_from(jdit, config.init)
    trainer = Trainer(jdit, config.run, config.optimizer, to_dict(config))
    device = trainer.accelerator.device
    stvae.to(device)
    with trainer.accelerator.main_process_first():  # the others find what it wrote
        validation = cached(config, stvae, folder, "validation")
        training = None if config.stream.workers else cached(config, stvae, folder, "train")
    if config.stream.workers:
        training = streamed(config, stvae, trainer)
    causal = jdit.config.attention == "causal"
    pool = Pool(config.scenes.source("validation"), range(config.scenes.validation_scenes))
    part = config.tasks.prefix_frames or None
    panel_pairs = config.cache.pairs - 1 if part else 4
    episodes = [
        draw_context(pool, name, panel_pairs, np.random.default_rng(VALIDATION_SEED), prefix_frames=part)
        for name in validation.tasks
    ]
    most_pairs = config.train_pairs - causal
    settings = {"sample_size": config.scenes.size, "max_pairs": most_pairs}
    pipeline = LavinPipeline(stvae, trainer.bare_model, **settings)
    pipeline.set_progress_bar_config(disable=True)

    def compute_loss(model, rng, generator):
        if config.stream.workers:
            training.advance(config.stream.fresh)
        pairs = config.train_pairs if causal else int(rng.integers(1, config.train_pairs)) + 1
        condition, targets, _ = training.sequences(rng, config.run.batch_size, pairs)
        drop = not causal and rng.random() < config.context_dropout
        condition, targets = condition.to(device), targets.to(device)
        trainer.remember(condition=condition, targets=targets)
        loss = sequence_loss(model, condition, targets, pairs, causal, generator, config, drop)
        logs = {}
        if causal:
            logs = {"loss_no_pairs": loss[:, 0].mean().detach(), "loss_most_pairs": loss[:, -1].mean().detach()}
        return loss.mean(), logs

    def validate(step):
        model = trainer.bare_model
        with trainer.accelerator.autocast():
            values = validation_loss(model, validation, config, device)
            shown = panel(pipeline, episodes, guidance_scale=1.5)
        return values, {"context | query | prediction | truth": shown}

    def export(to):
        averaged = trainer.averaged_model()
        if averaged is None:  # the main process has it
            return
        held_out = {f"held_out_{kind}": names for kind, names in asdict(config.tasks.held_out()).items()}
        record = {"steps": trainer.step, **held_out, "config": to_dict(config)}
        exported = LavinPipeline(copy.deepcopy(stvae), averaged, **settings)
        if config.export_dtype != "float32":
            exported.to(dtype=getattr(torch, config.export_dtype))
        save_model(exported, record, to)

    trainer.fit(compute_loss, validate, export)
    export(folder)
    trainer.end()
    return folder


def save_model(pipeline: LavinPipeline, record: dict[str, Any], folder: Path) -> None:
    """Write a model folder, or put its files in the place of those of an older one; the index comes last.

    Args:
        record: how it was trained.
    """
    aside = folder / ".model.partial"
    shutil.rmtree(aside, ignore_errors=True)
    pipeline.save_pretrained(aside)
    (aside / TRAINING_RECORD).write_text(json.dumps(record, indent=1) + "\n")
    (folder / INDEX).unlink(missing_ok=True)
    for name in (*COMPONENTS, TRAINING_RECORD, INDEX):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        (aside / name).replace(folder / name)
    shutil.rmtree(aside)
