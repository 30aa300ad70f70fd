"""The two trainings' configurations: a dataclass per concern, checked when built.

YAML sets values, `key=value` overrides: see ``config_files``. The parts are in ``run_config`` and ``data_config``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lavin.errors import InputError
from lavin.suggest import unknown
from lavin.training.buckets import buckets_of, shapes_of
from lavin.training.config_files import load_config, to_dict
from lavin.training.data_config import (
    BucketConfig,
    CacheConfig,
    PhotosConfig,
    ScenesConfig,
    StreamConfig,
    TasksConfig,
)
from lavin.training.run_config import OptimizerConfig, RunConfig, check_positive
from lavin.training.stvae_config import LossesConfig

__all__ = [
    "BucketConfig", "CacheConfig", "OptimizerConfig", "PhotosConfig", "PretrainConfig", "RunConfig", "STVAEConfig",
    "ScenesConfig", "StreamConfig", "TasksConfig", "check_positive", "check_stream", "load_config", "to_dict",
]  # fmt: skip


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
    keep_of_past: float = 1.0
    """With ``init``: share of their weights on earlier frames that kernels begin with; the rest goes to the frame
    itself, and pictures stay as they were. Below 1 for models that have seen few clips: pictures alone teach kernels to
    average frames, since they see the sum over time. 0 is causal inflation."""
    freeze_encoder: bool = False
    """Train the decoder alone: the latents of ``init``, their shift and scale stay as they are, and so a J-DiT that was
    trained on them goes on to fit."""
    freeze_pictures: bool = False
    """Learn clips alone: pictures and first frames are encoded and decoded as by ``init``. Kernels learn what they do
    with later frames, and these have their linear codec measured anew. For a J-DiT that knows pictures only."""

    def __post_init__(self):
        check_positive(self, "pictures")
        for key in ("freeze_encoder", "freeze_pictures"):
            if getattr(self, key) and not self.init:
                raise InputError(f"{key} needs init, the ST-VAE whose latents stay as they are")
        if not 0 <= self.keep_of_past <= 1:
            raise InputError(f"keep_of_past is {self.keep_of_past}; it must be at least 0 and at most 1")
        if self.keep_of_past < 1 and (not self.init or self.freeze_encoder):
            raise InputError("keep_of_past needs init, the ST-VAE whose kernels it changes, and no freeze_encoder")
        if self.freeze_pictures and (self.freeze_encoder or not self.clip_share):
            raise InputError("freeze_pictures is for training on clips: it needs clip_share and no freeze_encoder")
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
class DistillationConfig:
    """Learning new tasks without forgetting the others (Li and Hoiem, Learning without Forgetting, 2016)."""

    teacher: str | None = None
    """Model (a bundled name or a pipeline folder), of the sizes in ``model`` and trained on latents of ``stvae``. Its
    velocity takes the place of data - noise in the contexts of all tasks but ``learned``; None for no teacher."""
    learned: list[str] = field(default_factory=list)
    """Tasks that learn from their targets, as all do without a teacher."""

    def check(self, tasks: list[str]) -> None:
        """Refuse what teaches nothing and tasks that are not trained."""
        if self.learned and not self.teacher:
            raise InputError("distillation.learned needs distillation.teacher, the model that the other tasks keep to")
        if self.teacher and not self.learned:
            raise InputError("distillation.learned is empty; it names the tasks that do not keep to the teacher")
        for name in self.learned:
            if name not in tasks:
                raise InputError(f"distillation.learned: {unknown('task of this training', name, tasks)}")


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
    min_context: int | None = None
    """Least pairs of a context; each step draws its contexts' length from this to ``train_pairs`` - 1. None: from 1 for
    a ``full`` model, as in the thesis; a ``causal`` one then draws nothing, since each sequence trains all lengths."""
    context_dropout: float = 0.1
    """Chance that a sequence of a ``full`` model loses its pairs (thesis: 0.1); causal models train that anyway."""
    buckets: list[BucketConfig] = field(default_factory=list)
    """Shapes of batches; each step draws one. Empty for the one of ``scenes``. A batch has ``run.batch_size`` sequences
    at the shape of ``scenes``, and at another as many as have that many tokens. The exported model works at
    ``scenes.size``, and panels are made there."""
    l1_weight: float = 0.0
    """Weight of the mean absolute error of the velocity (release: 0.1)."""
    init: str | None = None
    """Start from the J-DiT of this model (a bundled name or a pipeline folder) instead of fresh weights; it must have
    the sizes in ``model``."""
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    export_dtype: str = "float32"
    """Precision of the exported model's files: ``float32``, ``float16`` or ``bfloat16``."""

    def __post_init__(self):
        check_positive(self, "train_pairs")
        self.tasks.resolve(self.scenes, self.stream.people_share > 0, shapes_of(self))
        check_stream(self)
        self.check_contexts()
        self.distillation.check(list(self.tasks.probabilities()))
        if self.export_dtype not in ("float32", "float16", "bfloat16"):
            raise InputError(f"export_dtype is '{self.export_dtype}'; it must be float32, float16 or bfloat16")
        part, whole = self.tasks.prefix_frames, self.scenes.frames
        if part and (part < 5 or part % 4 != 1 or part * self.cache.pairs > whole):
            raise InputError(
                f"tasks.prefix_frames is {part}; it must be 1 + 4k, at least 5, and fit {self.cache.pairs} times "
                f"(cache.pairs) into scenes.frames={whole}"
            )
        if self.train_pairs > self.cache.pairs:
            raise InputError(f"train_pairs is {self.train_pairs}; the cache holds contexts of {self.cache.pairs} pairs")
        buckets_of(self)

    @property
    def causal(self) -> bool:
        """Whether the model trains all targets of a sequence in parallel."""
        return self.model.get("attention", "full") == "causal"

    @property
    def sequence_lengths(self) -> range:
        """Pairs of a sequence, the query's among them, of which each step draws one."""
        least = self.min_context
        if least is None:
            least = self.train_pairs - 1 if self.causal else 1
        return range(least + 1, self.train_pairs + 1)

    def check_contexts(self) -> None:
        """Refuse lengths and chances that no context has."""
        least = 0 if self.causal else 1
        if self.train_pairs <= least:
            raise InputError(
                f"train_pairs is {self.train_pairs}; a 'full' model needs 2 or more, the query's among them"
            )
        if self.min_context is not None and not least <= self.min_context < self.train_pairs:
            known = f"{least} to {self.train_pairs - 1} (train_pairs - 1)"
            raise InputError(f"min_context is {self.min_context}; it must be {known}")
        if not 0 <= self.context_dropout <= 1:
            raise InputError(f"context_dropout is {self.context_dropout}; it must be in [0, 1]")


def check_stream(config: STVAEConfig | PretrainConfig) -> None:
    """Refuse what only a stream can give where there is none."""
    if config.stream.workers:
        return
    for key, wanted in (("photos.folders", config.photos.folders), ("stream.people_share", config.stream.people_share)):
        if wanted:
            raise InputError(f"{key} needs stream.workers above 0: they are drawn while the model trains")
