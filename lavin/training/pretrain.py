"""Training of the J-DiT: flow matching on contexts, their latents computed once and cached."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lavin.bundled import COMPONENTS, INDEX, TRAINING_RECORD, find_model
from lavin.data.mixture import Episode, Pool, draw_context
from lavin.errors import InputError
from lavin.models.jdit import JDiT
from lavin.models.weights import load_component
from lavin.pipeline import LavinPipeline
from lavin.training.arithmetic import SequenceCost
from lavin.training.buckets import BatchPlan, Bucket, buckets_of, plan_batch
from lavin.training.config import PretrainConfig, to_dict
from lavin.training.latents import LatentCache, load_stvae
from lavin.training.objective import draw_timesteps, sequence_loss
from lavin.training.panels import panel
from lavin.training.randomness import numpy_rng, torch_rng
from lavin.training.supply import Supply, cached
from lavin.training.trainer import Trainer

VALIDATION_SEED = 1_000_003
PANEL_PAIRS = 4
"""Fixed draws of the validation: the same contexts, timesteps and noise at every step."""
TIMESTEP_BUCKETS = ("0.00-0.25", "0.25-0.50", "0.50-0.75", "0.75-1.00")
"""Quarters of t, by which the training loss is told apart."""


def start_from(jdit: JDiT, model: str, key: str = "init") -> None:
    """Copy the weights of a model's J-DiT; ``key`` of the configuration names it.

    Raises:
        InputError: no such model, or it has other sizes.
    """
    try:
        folder = find_model(model)
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
    weights = load_component(JDiT, folder / "jdit", torch.float32).state_dict()
    try:
        jdit.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise InputError(f"{key}: the J-DiT of '{model}' has other sizes than 'model' says ({reason})") from error


def teacher_of(jdit: JDiT, model: str | None) -> JDiT | None:
    """A frozen J-DiT of the same sizes with the weights of a model, if any."""
    if model is None:
        return None
    teacher = copy.deepcopy(jdit).requires_grad_(False)
    start_from(teacher, model, "distillation.teacher")
    return teacher


def validation_loss(
    model: JDiT, buckets: list[Bucket], caches: list[LatentCache], config: PretrainConfig, device: torch.device
) -> dict[str, float]:
    """Mean loss over the held-out contexts at fixed timesteps and noise, and by task with the most pairs."""
    losses: dict[str, list[float]] = {}
    for bucket, cache in zip(buckets, caches, strict=True):
        for number in range(max(1, len(cache) // bucket.batch_size)):
            key = (VALIDATION_SEED + bucket.number, number, 0)
            condition, targets, task_ids = cache.sequences(numpy_rng(*key), bucket.batch_size, config.train_pairs)
            condition, targets, generator = condition.to(device), targets.to(device), torch_rng(*key, device)
            pairs = config.train_pairs
            t = draw_timesteps(targets, pairs, config.causal, generator, config.timestep_mean)
            loss = sequence_loss(model, condition, targets, t, pairs, generator, config.l1_weight)
            losses.setdefault("loss", []).extend(loss.flatten().tolist())
            if len(buckets) > 1:
                losses.setdefault(f"loss_{bucket.name}", []).extend(loss.flatten().tolist())
            last = loss[:, -1] if config.causal else loss
            for task_id, value in zip(task_ids, last.tolist(), strict=True):
                losses.setdefault(f"loss_{cache.tasks[int(task_id)]}", []).append(value)
    return {name: float(np.mean(values)) for name, values in losses.items()}


def panel_episodes(config: PretrainConfig, buckets: list[Bucket]) -> dict[str, list[Episode]]:
    """Held-out questions, one of every task, by the bucket that shows it first."""
    episodes: dict[str, list[Episode]] = {}
    seen: set[str] = set()
    for bucket in buckets:
        names = [name for name in bucket.tasks.on_scenes(bucket.scenes).probabilities() if name not in seen]
        seen |= set(names)
        title = "context | query | prediction | truth" + (f" {bucket.name}" if len(buckets) > 1 else "")
        if names:
            pool = Pool(bucket.scenes.source("validation"), range(bucket.scenes.validation_scenes))
            part = config.tasks.prefix_frames or None
            pairs = config.cache.pairs - 1 if part else PANEL_PAIRS
            rngs = [np.random.default_rng(VALIDATION_SEED) for _ in names]
            episodes[title] = [
                draw_context(pool, name, pairs, rng, prefix_frames=part) for name, rng in zip(names, rngs, strict=True)
            ]
    return episodes


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
    teacher = teacher_of(jdit, config.distillation.teacher)
    buckets = buckets_of(config)
    many_shapes = len(buckets) * len(config.sequence_lengths) > 1 or not config.causal
    trainer = Trainer(jdit, config.run, config.optimizer, to_dict(config), many_shapes)
    accelerator = trainer.accelerator
    device = accelerator.device
    stvae.to(device)
    if teacher is not None:
        teacher.to(device)
    with accelerator.main_process_first():  # the others find what it wrote
        validation = [cached(config, bucket, stvae, folder, "validation") for bucket in buckets]
        place = (accelerator.process_index, accelerator.num_processes)
        supply = None if config.stream.workers else Supply(config, buckets, stvae, folder, trainer.step, *place)
    supply = supply or Supply(config, buckets, stvae, folder, trainer.step, *place)
    causal, tasks = config.causal, list(config.tasks.probabilities())
    learned = torch.tensor([tasks.index(name) for name in config.distillation.learned], dtype=torch.long)
    episodes = panel_episodes(config, buckets)
    settings = {"sample_size": config.scenes.size, "max_pairs": config.train_pairs - causal}
    pipeline = LavinPipeline(stvae, trainer.bare_model, **settings)
    pipeline.set_progress_bar_config(disable=True)
    monitor = trainer.monitor
    monitor.watch_losses(
        timestep=TIMESTEP_BUCKETS,
        pairs=[str(pairs) for pairs in range(config.train_pairs)],
        task=tasks,
        bucket=[bucket.name for bucket in buckets],
    )
    cost = SequenceCost(config, stvae.config.latent_channels)
    monitor.watch_arithmetic(lambda number, pairs: cost.training(buckets[number], pairs))

    def compute_loss(model, rng, generator):
        plan = plan_batch(config, buckets, trainer.step)
        with monitor.clock.doing("data"):
            condition, targets, task_ids = supply.batch(plan, rng)
            condition, targets = condition.to(device), targets.to(device)
        trainer.remember(condition=condition, targets=targets)
        t = draw_timesteps(targets, plan.pairs, causal, generator, config.timestep_mean)
        names = supply.contexts[plan.bucket.number].tasks
        numbers = torch.tensor([tasks.index(name) for name in names])[task_ids]
        taught = ~torch.isin(numbers, learned).to(device)
        loss = sequence_loss(
            model, condition, targets, t, plan.pairs, generator, config.l1_weight, plan.dropped, teacher, taught
        )
        monitor.note_losses(loss, **loss_groups(t, numbers, plan))
        monitor.note_batch(len(targets), (plan.bucket.number, plan.pairs))
        return loss.mean(), supply.logs()

    def validate(step):
        model = trainer.bare_model
        with accelerator.autocast():
            values = validation_loss(model, buckets, validation, config, device)
            shown = {title: panel(pipeline, asked, guidance_scale=1.5) for title, asked in episodes.items()}
        return values, shown

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


def loss_groups(t: Tensor, task_numbers: Tensor, plan: BatchPlan) -> dict[str, Tensor]:
    """Where every target's loss belongs in the logs: number of its timestep's quarter, context length, task, bucket.

    Args:
        t: (batch,) or (batch, pairs).
        task_numbers: (batch,).

    Returns:
        Each in the shape of t.
    """
    if t.ndim == 2:  # target i has the pairs before it as its context
        lengths = torch.arange(t.shape[1], device=t.device).expand(t.shape)
    else:
        lengths = torch.where(torch.from_numpy(plan.dropped), 0, plan.pairs - 1).to(t.device)
    tasks = task_numbers.to(t.device).view(-1, *[1] * (t.ndim - 1)).expand(t.shape)
    quarters = (t * len(TIMESTEP_BUCKETS)).long().clamp(max=len(TIMESTEP_BUCKETS) - 1)
    return {"timestep": quarters, "pairs": lengths, "task": tasks, "bucket": torch.full_like(tasks, plan.bucket.number)}


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
