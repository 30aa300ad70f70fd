"""Training configurations: a dataclass per concern, checked when built; YAML sets values, `key=value` overrides."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from lavin.errors import InputError
from lavin.suggest import unknown
from lavin.training.stvae_config import LossesConfig


@dataclass
class RunConfig:
    """How long, where and in what precision a run trains."""

    output_dir: str = "runs/run"
    """Checkpoints, logs and the exported model go here; a run found here is resumed. ``output_dir`` alone, without
    ``run.``, says the same."""
    seed: int = 0
    """Data, noise and initial weights are functions of (seed, step, rank, ranks)."""
    max_steps: int = 1000
    """Optimizer steps in all, earlier ones of a resumed run included."""
    max_minutes: float | None = None
    """Stop after so many minutes of this launch if ``max_steps`` has not been reached: where time is what is scarce.
    The learning rate's decay then ends there too, by the speed measured so far."""
    batch_size: int = 32
    """Sequences (J-DiT) or pictures (ST-VAE) of one process in one forward pass."""
    accumulation: int = 1
    """Forward passes an optimizer step."""
    precision: str = "bf16"
    """``bf16`` (autocast) or ``fp32``; weights, norms, EMA and optimizer are float32 in both."""
    compile: bool = False
    """``torch.compile`` of the repeated blocks; needs a C++ compiler on CPUs (the J-DiT of small.yaml: 1.4x faster)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    attention: str = "sdpa"
    """Kernel of the J-DiT's attention while it trains: ``sdpa``; ``flex``, which skips what causal contexts mask (CUDA
    and ``compile`` only); ``flash`` or ``xformers`` (CUDA only)."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights, warmed up as (1 + step)^(-2/3) (thesis: 0.9999)."""
    log_every: int = 20
    """Steps between log lines; the loss logged is the mean over them."""
    validate_every: int = 500
    """Steps between validations and picture panels; 0 for none."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the last step has one in any case."""
    keep_checkpoints: int = 2
    """Older checkpoints are removed."""
    export_every: int = 0
    """Steps between exports of the averaged weights alone, to ``exports/``; 0 for one at the end."""
    keep_exports: int = 2
    """Older exports are removed; the one at the end is apart from them."""
    overfit_batch: bool = False
    """Sanity run: train on the first batch for ever; a healthy set-up drives its loss to near zero."""

    def __post_init__(self):
        check_positive(
            self, "max_steps", "batch_size", "accumulation", "log_every", "checkpoint_every", "keep_checkpoints",
            "keep_exports",
        )  # fmt: skip
        for name in ("validate_every", "export_every"):
            if getattr(self, name) < 0:
                raise InputError(f"run.{name} is {getattr(self, name)}; it must not be negative")
        if self.max_minutes is not None:
            check_positive(self, "max_minutes")
        if self.attention == "flex" and not (self.compile and torch.cuda.is_available()):
            raise InputError("run.attention=flex needs a GPU and run.compile=true; use sdpa")
        if self.precision not in ("bf16", "fp32"):
            raise InputError(f"run.precision is '{self.precision}'; it must be 'bf16' or 'fp32'")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"run.ema_decay is {self.ema_decay}; it must be in [0, 1)")


@dataclass
class OptimizerConfig:
    """AdamW and its schedule: linear warm-up, constant, linear decay to zero at the end."""

    learning_rate: float = 1e-4
    """Peak (thesis, stage 1: 1e-4)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """(thesis)"""
    weight_decay: float = 0.01
    """(thesis)"""
    warmup_steps: int = 0
    """Steps of linear warm-up (thesis: none)."""
    decay_steps: int = 0
    """Steps of linear decay to zero before ``max_steps``."""
    decay_share: float = 0.0
    """The same as a share of the whole run; the longer of the two decays holds."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm (thesis)."""

    def __post_init__(self):
        check_positive(self, "learning_rate", "max_grad_norm")
        if not 0 <= self.decay_share <= 1:
            raise InputError(f"optimizer.decay_share is {self.decay_share}; it must be in [0, 1]")


@dataclass
class ScenesConfig:
    """Procedural scenes that a run trains on."""

    size: int = 64
    """Side of the pictures, pixels; a multiple of 16."""
    train_scenes: int = 8000
    """Scenes in memory, from which pictures and contexts are drawn."""
    validation_scenes: int = 500
    """Scenes of the held-out split, for validation."""
    frames: int = 1
    """1 for pictures; 1 + 4k for clips, which tasks of clips are drawn from."""
    people: bool = False
    """Scenes with people, which pose tasks are drawn from."""

    def __post_init__(self):
        check_positive(self, "size", "train_scenes", "validation_scenes", "frames")
        if self.size % 16:
            raise InputError(f"scenes.size is {self.size}; it must be a multiple of 16 (8 of the ST-VAE, 2 of a patch)")
        if self.frames % 4 != 1:
            raise InputError(f"scenes.frames is {self.frames}; it must be 1, or 1 + 4k for clips")

    def source(self, split: str):
        """The scenes of a split: ``train`` or ``validation``."""
        from lavin.data.scenes import Scenes

        return Scenes(split, size=self.size, frames=self.frames, people=self.people)

    def shows(self, task: str) -> bool:
        """Whether a registered task can be drawn from these scenes."""
        from lavin.tasks import get_task

        return self.why_not(get_task(task)) is None

    def why_not(self, task, with_people: bool = False) -> str | None:
        """What keeps a task from being drawn from these scenes, in words; None if nothing does.

        Args:
            with_people: some scenes have people although ``people`` is False.
        """
        if task.name == "frame_prediction":
            return "its targets are longer than its inputs, which training in parallel does not take yet"
        if task.clips != (self.frames > 1):
            return f"set scenes.frames to {'1 + 4k, it is a task of clips' if task.clips else '1, it is of pictures'}"
        if task.people and not (self.people or with_people):
            return "it needs people: set scenes.people to true, or stream.people_share"
        if task.name == "referring_caption" and self.size < 64:
            return "its captions need pictures of 64 pixels"
        return None


@dataclass
class TasksConfig:
    """Which tasks are trained, and what their definitions never use."""

    weights: dict[str, float] = field(default_factory=dict)
    """Task name -> how often it is drawn, relative to the others; empty for all that the scenes can show, equally."""
    held_out_tasks: list[str] = field(default_factory=list)
    """Tasks that are not trained, so that an evaluation of them is one of the unseen."""
    held_out_classes: list[str] = field(default_factory=list)
    """Class names that no definition of the training selects."""
    held_out_colours: list[str] = field(default_factory=list)
    """Colour names likewise."""
    held_out_palettes: list[Any] = field(default_factory=list)
    """8-bit RGB triples that no definition draws with."""

    def resolve(self, scenes: ScenesConfig, with_people: bool = False) -> None:
        """Fill in the weights if there are none, and check that the scenes can show every task that has one.

        Args:
            with_people: some scenes have people although ``scenes.people`` is False.

        Raises:
            InputError: an unknown task (the message suggests the nearest), one that these scenes cannot show or that
                is held out, a negative weight, or none above zero.
        """
        from lavin.tasks import REGISTRY

        for key, names in (("weights", self.weights), ("held_out_tasks", self.held_out_tasks)):
            for name in names:
                if name not in REGISTRY:
                    raise InputError(f"tasks.{key}: {unknown('task', name, REGISTRY)}")
        shown = [name for name, task in REGISTRY.items() if scenes.why_not(task, with_people) is None]
        self.weights = self.weights or {name: 1.0 for name in sorted(shown) if name not in self.held_out_tasks}
        for name, weight in self.weights.items():
            if weight < 0:
                raise InputError(f"tasks.weights.{name} is {weight}; it must not be negative")
            if weight and name in self.held_out_tasks:
                raise InputError(f"task '{name}' has a weight and is in tasks.held_out_tasks; take it out of one")
            if weight and (reason := scenes.why_not(REGISTRY[name], with_people)):
                raise InputError(f"tasks.weights.{name}: {reason}")
        if not any(self.weights.values()):
            raise InputError("tasks.weights are all zero; give at least one task a weight")

    def probabilities(self) -> dict[str, float]:
        """Task name -> probability, once ``resolve`` has filled in the weights."""
        total = sum(self.weights.values())
        return {name: weight / total for name, weight in self.weights.items() if weight}

    def on_scenes(self, scenes: ScenesConfig) -> TasksConfig:
        """These tasks without those that scenes without people cannot show."""
        weights = {name: weight for name, weight in self.weights.items() if scenes.shows(name)}
        return dataclasses.replace(self, weights=weights)

    def held_out(self):
        """The same as the tasks' own record."""
        from lavin.tasks import HeldOut

        palettes = tuple(tuple(int(level) for level in rgb) for rgb in self.held_out_palettes)
        return HeldOut(tuple(self.held_out_classes), tuple(self.held_out_colours), palettes)


@dataclass
class CacheConfig:
    """Contexts whose latents are computed once, before the J-DiT trains."""

    contexts: int = 10000
    """Contexts of the training split."""
    validation_contexts: int = 256
    """Contexts of the held-out split."""
    pairs: int = 8
    """Pairs of each; every visit draws ``train_pairs`` of them in a new order."""

    def __post_init__(self):
        check_positive(self, "contexts", "validation_contexts", "pairs")


@dataclass
class StreamConfig:
    """Contexts that worker processes draw afresh while the model trains, instead of all of them before it."""

    workers: int = 0
    """Processes of each rank that draw them; 0 for none: the cache is then filled once and kept."""
    fresh: int = 8
    """New contexts a step; they replace the oldest of the cache."""
    batch: int = 8
    """Contexts that a worker sends at a time."""
    scenes_per_context: float = 2.0
    """New scenes rendered for every context drawn from them; ``scenes.train_scenes`` are held at a time."""
    people_share: float = 0.0
    """Share of the contexts that is drawn from scenes with people."""

    def __post_init__(self):
        check_positive(self, "fresh", "batch", "scenes_per_context")
        if self.workers < 0:
            raise InputError(f"stream.workers is {self.workers}; it must not be negative")
        if self.fresh % self.batch:
            raise InputError(f"stream.fresh is {self.fresh}; it must be a multiple of stream.batch={self.batch}")
        if not 0 <= self.people_share < 1:
            raise InputError(f"stream.people_share is {self.people_share}; it must be at least 0 and below 1")


@dataclass
class PhotosConfig:
    """Real images beside the scenes; only with ``stream.workers``."""

    folders: dict[str, str] = field(default_factory=dict)
    """Kind -> folder; the kinds are those of ``lavin.data.photos``: ``camvid``, ``bsds500``, ``rgbd``."""
    share: float = 0.2
    """Share of the contexts that is drawn from them, the same for every kind."""

    def __post_init__(self):
        for kind in self.folders:
            from lavin.data.photos import KINDS

            if kind not in KINDS:
                raise InputError(f"photos.folders: {unknown('kind', kind, KINDS)}")
        if not 0 <= self.share < 1:
            raise InputError(f"photos.share is {self.share}; it must be at least 0 and below 1")


@dataclass
class STVAEConfig:
    """Training of the ST-VAE on pictures: `train/stvae.py`."""

    run: RunConfig = field(default_factory=RunConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of ``STVAE``; with ``kind: cogvideox`` those of diffusers' ``AutoencoderKLCogVideoX``, to compare."""
    pictures: int = 24000
    """Training pictures: photos and painted labels."""
    label_share: float = 0.5
    """Painted labels among them, so that these survive the ST-VAE; a stream has as many as photos, always."""
    crop_sizes: list[int] = field(default_factory=list)
    """Sides in pixels, multiples of 8: each forward pass draws a height and a width of these, and each of its pictures
    a random part of that size. Smaller parts come in larger batches, so that passes cost the same. Empty for whole
    pictures."""
    losses: LossesConfig = field(default_factory=LossesConfig)
    scale_per_channel: bool = False
    """Whether each latent channel is scaled to unit variance for the J-DiT, or all by one number, as in the release:
    then channels keep their weight in the flow-matching loss, and fine detail does not drown what matters."""
    stream: StreamConfig = field(default_factory=StreamConfig)
    """With workers, ``pictures`` is how many are kept at a time, and one context is one input and one target."""
    photos: PhotosConfig = field(default_factory=PhotosConfig)
    clip_share: float = 0.0
    """Share of the forward passes that train on clips of moving scenes."""
    clip_frames: int = 5
    """Frames of these clips, 1 + 4k; a batch has as many frames as one of pictures."""
    clips: int = 3000
    """Clips kept at a time."""
    init: str | None = None
    """Start from this ST-VAE (a bundled model's name, a pipeline folder or an ST-VAE folder) instead of fresh weights;
    it must have the sizes in ``model``."""

    def __post_init__(self):
        check_positive(self, "pictures")
        self.tasks.resolve(self.scenes, self.stream.people_share > 0)
        check_stream(self)
        if not 0 <= self.clip_share < 1:
            raise InputError(f"clip_share is {self.clip_share}; it must be at least 0 and below 1")
        if not 0 <= self.label_share < 1:
            raise InputError(f"label_share is {self.label_share}; it must be at least 0 and below 1")
        if self.stream.workers and self.label_share != 0.5:
            raise InputError("label_share is for runs without stream.workers; a stream has as many labels as photos")
        for size in self.crop_sizes or [self.scenes.size]:
            if size % 8 or not self.losses.smallest <= size <= self.scenes.size:
                raise InputError(
                    f"crop_sizes has {size}; sides are multiples of 8 from {self.losses.smallest} to "
                    f"scenes.size={self.scenes.size}"
                )
        if self.clip_frames < 5 or self.clip_frames % 4 != 1:
            raise InputError(f"clip_frames is {self.clip_frames}; it must be 1 + 4k, k at least 1")


@dataclass
class PretrainConfig:
    """Training of the J-DiT by flow matching: `train/pretrain.py`."""

    run: RunConfig = field(default_factory=RunConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of ``JDiT``."""
    stvae: str = "lavin-tiny"
    """The frozen ST-VAE: a bundled model's name, a pipeline folder or an ST-VAE folder."""
    stream: StreamConfig = field(default_factory=StreamConfig)
    photos: PhotosConfig = field(default_factory=PhotosConfig)
    timestep_mean: float = 0.0
    """Training draws sigmoid(t') with t' ~ N(``timestep_mean``, 1) (thesis: 0). Below zero there is more noise: what
    the pairs mean is decided there, and at high resolution only there."""
    train_pairs: int = 5
    """Pairs of a training sequence; a causal model has each as a target, so it sees contexts of 0 to this - 1."""
    context_dropout: float = 0.1
    """Chance that a sequence of a ``full`` model loses its pairs (thesis: 0.1); causal models train that anyway."""
    l1_weight: float = 0.0
    """Weight of the mean absolute error of the velocity (release: 0.1)."""
    init: str | None = None
    """Start from the J-DiT of this model (a bundled name or a pipeline folder) instead of fresh weights; it must have
    the sizes in ``model``."""
    export_dtype: str = "float32"
    """Precision of the exported model's files: ``float32``, ``float16`` or ``bfloat16``."""

    def __post_init__(self):
        check_positive(self, "train_pairs")
        self.tasks.resolve(self.scenes, self.stream.people_share > 0)
        check_stream(self)
        if self.export_dtype not in ("float32", "float16", "bfloat16"):
            raise InputError(f"export_dtype is '{self.export_dtype}'; it must be float32, float16 or bfloat16")
        if self.train_pairs > self.cache.pairs:
            raise InputError(f"train_pairs is {self.train_pairs}; the cache holds contexts of {self.cache.pairs} pairs")


def check_stream(config: STVAEConfig | PretrainConfig) -> None:
    """Refuse what only a stream can give where there is none."""
    if config.stream.workers:
        return
    for key, wanted in (("photos.folders", config.photos.folders), ("stream.people_share", config.stream.people_share)):
        if wanted:
            raise InputError(f"{key} needs stream.workers above 0: they are drawn while the model trains")


def check_positive(config: Any, *names: str) -> None:
    """Refuse values that are not above zero, by name."""
    for name in names:
        if not getattr(config, name) > 0:
            raise InputError(f"{type(config).__name__}.{name} is {getattr(config, name)}; it must be above 0")


Config = TypeVar("Config", STVAEConfig, PretrainConfig)


def load_config(schema: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and `key=value` overrides into a checked dataclass.

    Args:
        schema: ``STVAEConfig`` or ``PretrainConfig``.
        path: a YAML file that sets values only.
        overrides: e.g. ``run.max_steps=100``.

    Raises:
        InputError: missing file, unknown key (the nearest is suggested), or a value of the wrong kind.
    """
    if not Path(path).is_file():
        raise InputError(f"config {path}: no such file")
    for override in overrides:
        if "=" not in override:
            raise InputError(f"'{override}' is no override; write key=value, e.g. run.max_steps=100")
    try:
        values = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise InputError(f"config {path}: {str(error).splitlines()[0]}") from error
    if OmegaConf.is_dict(values) and "output_dir" in values:
        values = OmegaConf.merge(values, {"run": {"output_dir": values.pop("output_dir")}})
    refuse_unknown_keys(schema, OmegaConf.to_container(values), str(path))
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))
    except InputError:
        raise
    except (ConfigKeyError, OmegaConfBaseException) as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from error
        raise InputError(f"config {path}: {str(error).splitlines()[0]} ({getattr(error, 'full_key', '')})") from error


def refuse_unknown_keys(schema: type, values: Any, path: str, prefix: str = "", top: type | None = None) -> None:
    """Raise for the first key that the dataclass does not have; free-form dictionaries may hold any."""
    if not isinstance(values, dict):
        raise InputError(f"config {path}: {prefix.rstrip('.') or 'it'} must be a mapping of keys to values")
    fields = {entry.name: entry for entry in dataclasses.fields(schema)}
    for key, value in values.items():
        if key not in fields:
            known = [prefix + name for name in fields] + ([] if prefix else ["output_dir"])
            raise InputError(f"config {path}: {unknown_key(f'{prefix}{key}', known, top or schema)}")
        nested = fields[key].default_factory
        if dataclasses.is_dataclass(nested):
            refuse_unknown_keys(nested, value, path, f"{prefix}{key}.", top or schema)


def all_keys(schema: type, prefix: str = "") -> list[str]:
    """Every key of a configuration, those within others as ``run.max_steps``."""
    keys = []
    for entry in dataclasses.fields(schema):
        keys.append(prefix + entry.name)
        if dataclasses.is_dataclass(entry.default_factory):
            keys += all_keys(entry.default_factory, f"{prefix}{entry.name}.")
    return keys


def unknown_key(key: str, known: list[str], top: type) -> str:
    """What to say of a key: the nearest of those beside it, else the nearest of all."""
    if difflib.get_close_matches(key, known, n=1, cutoff=0.5):
        return unknown("key", key, known)
    elsewhere = {name.rpartition(".")[2]: name for name in all_keys(top)}
    last = key.rpartition(".")[2]
    (near,) = difflib.get_close_matches(last, elsewhere, n=1, cutoff=0)
    return f"unknown key '{key}'; did you mean '{elsewhere[near]}'? known: {', '.join(sorted(known))}"


def to_dict(config: Any) -> dict[str, Any]:
    """The resolved configuration, JSON-able: it is saved in every checkpoint."""
    return dataclasses.asdict(config)
