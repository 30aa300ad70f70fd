"""LavinPipeline: input-target pairs and a query in, the query's predicted target out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Generator, Tensor

from lavin import flow
from lavin.bundled import find_model, read_index
from lavin.encoded import EncodedContext, fingerprint, thumbnails
from lavin.errors import InputError, LavinError
from lavin.labels import find_task, palette, standard_definition
from lavin.models.jdit import ConditionCache, JDiT
from lavin.models.stvae import STVAE, latent_frames, pad_frames
from lavin.models.weights import load_component
from lavin.pictures import Picture, read_context, read_queries, squash, to_output
from lavin.speed import EXACT, Speed, find_speed
from lavin.suggest import unknown
from lavin.tasks.resizing import resize_label
from lavin.velocity import guided_velocity

OUTPUT_TYPES = ("pil", "pt", "np", "latent")
TIME_GRIDS = ("linear_quadratic", "uniform")
SETTINGS = ("sample_size", "time_grid", "max_pairs", "num_inference_steps")
"""What ``model_index.json`` says beside the two components."""
PIXELS_TOGETHER = 4 * 128**2
"""Of clips that go through the ST-VAE together: it makes small ones faster, and takes memory."""


@dataclass
class LavinOutput(BaseOutput):
    """What a call predicts; every list has one entry a query, in the order of the queries.

    Args:
        images: at each query's own size. ``pil``: a picture, or a list of frames; ``np``: float32 (height, width, 3)
            in [0, 1], clips (frames, height, width, 3); ``pt``: float32 (3, frames, height, width) in [-1, 1].
            None for ``latent``.
        labels: what the task reads from each prediction, resized to the query's size; None without a task.
        latents: (queries * ensemble_size, channels, latent_frames, height, width), in the J-DiT's scale.
        spread: how far the predictions of an ensemble differ, see ``ensemble_spread``: float32 (frames, height, width)
            at each query's own size; None without an ensemble, and for ``latent``.
    """

    images: list[Any] | None
    labels: list[Any] | None
    latents: Tensor
    spread: list[Tensor] | None = None


class LavinPipeline(DiffusionPipeline):
    """In-context vision: the pairs say what to do, the query is what to do it to.

    Args:
        stvae: clips to latents and back.
        jdit: velocity of the target's latent, given the latents of pairs and query.
        sample_size: side in pixels of the square at which the model works, a multiple of 16.
        time_grid: ``linear_quadratic`` (release) or ``uniform``; see ``lavin.flow.time_grid``.
        max_pairs: most pairs that the model was trained with; the command takes no more unless told to.
        num_inference_steps: points of the time grid that it was made for; None leaves them to a call's ``speed``.

    Example:
        >>> from lavin import LavinPipeline, load_pairs
        >>> pipe = LavinPipeline.from_pretrained("lavin-tiny")
        >>> out = pipe(context=load_pairs("pairs/"), query="img.png", task="depth")
        >>> out.images[0].save("prediction.png")
        >>> out.labels[0].shape  # relative disparity, (frames, height, width)
    """

    model_cpu_offload_seq = "jdit->stvae"

    def __init__(
        self,
        stvae: STVAE,
        jdit: JDiT,
        sample_size: int = 128,
        time_grid: str = "linear_quadratic",
        max_pairs: int | None = None,
        num_inference_steps: int | None = None,
    ):
        super().__init__()
        if sample_size < 16 or sample_size % 16:
            raise InputError(f"sample_size is {sample_size}; it must be a multiple of 16 (8x ST-VAE, 2x patches)")
        if time_grid not in TIME_GRIDS:
            raise InputError(unknown("time grid", time_grid, TIME_GRIDS))
        self.register_modules(stvae=stvae, jdit=jdit)
        self.register_to_config(
            sample_size=sample_size,
            time_grid=time_grid,
            max_pairs=max_pairs,
            num_inference_steps=num_inference_steps,
        )
        self.set_progress_bar_config(disable=None)  # tqdm: None is "unless stderr is a terminal"

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, torch_dtype: torch.dtype = torch.float32) -> LavinPipeline:
        """Load a bundled model by name, or a folder that ``save_pretrained`` wrote; safetensors only, never a pickle.

        Args:
            name_or_folder: e.g. ``lavin-tiny``; see ``lavin.bundled``.
            torch_dtype: precision to run in, whatever precision the weights are stored in.

        Raises:
            InputError: unknown name; missing, damaged or pickled files.
        """
        folder = find_model(name_or_folder)
        index = read_index(folder)
        settings = {name: index[name] for name in SETTINGS if name in index}
        stvae = load_component(STVAE, folder / "stvae", torch_dtype)
        jdit = load_component(JDiT, folder / "jdit", torch_dtype)
        return cls(stvae, jdit, **settings)

    @classmethod
    def from_released(cls, source: str | Path, torch_dtype: torch.dtype | None = None) -> LavinPipeline:
        """Load the authors' release, with its defaults: 512x512, the linear-quadratic grid, up to 4 pairs.

        Args:
            source: a folder with ``lavin_dit.safetensors`` and ``stvae.pt`` or with the published ``weights.tar.gz``,
                such an archive, or a hub id ``owner/name``; see ``lavin.models.released``.
            torch_dtype: precision to run in; None for the one the weights are stored in.

        Raises:
            InputError: missing, damaged or unsafe files, weights that are not the release's, no network for a hub id.
        """
        from lavin.models.released import open_release
        from lavin.models.released_archive import released_folder

        with released_folder(source) as folder:
            release = open_release(folder)
            jdit, stvae = release.load(torch_dtype)
        return cls(stvae, jdit, **release.settings)

    @torch.no_grad()
    def __call__(
        self,
        context: str | Path | Sequence[tuple[Any, Any]] | EncodedContext,
        query: Any,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.5,
        generator: Generator | Sequence[Generator] | None = None,
        output_type: str = "pil",
        task: str | None = None,
        ensemble_size: int = 1,
        speed: str | Speed = "default",
    ) -> LavinOutput:
        """Predict the target of every query.

        Pictures are paths (also of mp4 clips), PIL images, arrays (height, width, 3) or (frames, height, width, 3),
        uint8 or float in [0, 1], or tensors (3, height, width) or (3, frames, height, width), float in [-1, 1]. They
        are squashed to the model's square and the prediction is resized back to the query's size.

        Args:
            context: (input, target) pairs, or the folder of them; or what ``encode_context`` made of them, which
                spares them to every further call.
            query: a picture or a list of pictures, which run as one batch and have equally many frames.
            num_inference_steps: points of the time grid, at least 2, so one more than solver steps: 20 is the
                release's "20 timesteps". Even and at least 4 with the ``linear_quadratic`` grid. None takes the
                model's own number, else that of ``speed``.
            guidance_scale: how much the pairs count beyond what the query alone predicts; 1 is no guidance and
                takes half the time.
            generator: draws the noise of all queries in order; or one generator a query, so that a query's
                prediction does not depend on the others.
            output_type: ``pil``, ``np``, ``pt`` or ``latent``.
            task: also read each prediction as this task's label, in its standard drawing style.
            ensemble_size: predictions from so many noises are averaged; the output then has their ``spread``.
            speed: ``exact``, ``default`` or ``fast``, see ``lavin.speed``.

        Raises:
            InputError: something above does not hold; the message says what.
        """
        speed = find_speed(speed)
        if num_inference_steps is None:
            num_inference_steps = self.config.num_inference_steps or speed.num_inference_steps
        self.check_inputs(num_inference_steps, guidance_scale, output_type, task, ensemble_size)
        queries = read_queries(query)
        generators = check_generators(generator, len(queries))
        task = find_task(task) if task else None
        context = self.encode_context(context) if not isinstance(context, EncodedContext) else self.own(context)
        definition = standard_definition(task, context.colours) if task else None

        query_latent = torch.cat(self.encode(queries))
        frames = context.target_frames(len(queries[0].frames))
        noise = draw_noise(query_latent, generators, ensemble_size, latent_frames(frames))
        grid = flow.time_grid(self.config.time_grid, num_inference_steps).to(self.device)
        latents = self.solve(
            context.latents,
            query_latent.repeat_interleave(ensemble_size, 0),
            noise,
            grid,
            guidance_scale,
            speed,
            context.cache,
        )
        if output_type == "latent":
            return LavinOutput(images=None, labels=None, latents=latents)

        sizes = [picture.size for picture in queries]
        clips, spread = [], []
        for ensemble, size in zip(self.decode_members(latents, frames, ensemble_size), sizes, strict=True):
            clips.append(ensemble.mean(0))
            if ensemble_size > 1:
                spread.append(resize_label(ensemble_spread(ensemble), size))
        images = [to_output(clip, size, output_type) for clip, size in zip(clips, sizes, strict=True)]
        labels = task and [
            task.resize(task.read(clip, definition), size) for clip, size in zip(clips, sizes, strict=True)
        ]
        return LavinOutput(images=images, labels=labels, latents=latents, spread=spread or None)

    def check_inputs(
        self,
        num_inference_steps: int | None,
        guidance_scale: float,
        output_type: str,
        task: str | None,
        ensemble_size: int,
    ) -> None:
        """Refuse what cannot work before any picture is read or encoded."""
        if output_type not in OUTPUT_TYPES:
            raise InputError(unknown("output_type", output_type, OUTPUT_TYPES))
        if not 0 <= guidance_scale < float("inf"):
            raise InputError(f"guidance_scale is {guidance_scale}; a number from 0 is needed, 1 is no guidance")
        if ensemble_size < 1:
            raise InputError(f"ensemble_size is {ensemble_size}; at least 1 prediction is needed")
        if num_inference_steps is not None:
            try:
                flow.time_grid(self.config.time_grid, num_inference_steps)
            except ValueError as error:
                raise InputError(f"num_inference_steps: {error}") from error
        if task is not None:
            find_task(task)
            if output_type == "latent":
                raise InputError(f"task '{task}' reads pictures; output_type 'latent' makes none")

    @torch.no_grad()
    def encode_context(
        self, context: str | Path | Sequence[tuple[Any, Any]], task: str | None = None
    ) -> EncodedContext:
        """Encode pairs once for any number of calls: ``pipe(context=pipe.encode_context("pairs/"), query=...)``.

        Args:
            context: (input, target) pairs, or the folder of them.
            task: what they show, to note it in the file; see ``EncodedContext.save``.

        Raises:
            InputError: unreadable pairs, or an unknown task.
        """
        pairs = read_context(context)
        task = find_task(task).name if task else None
        encoded = self.encode([half for pair in pairs for half in pair])
        latents = list(zip(encoded[::2], encoded[1::2], strict=True))
        cache = None
        if self.jdit.config.attention == "causal":
            halves = [half for pair in latents for half in pair]
            cache = self.jdit.encode_condition(torch.cat(halves, dim=2), [half.shape[2] for half in halves])
        small = thumbnails([tuple(squash(half.frames[:1], self.config.sample_size) for half in pair) for pair in pairs])
        return EncodedContext(
            latents,
            cache,
            self.fingerprints(),
            self.config.sample_size,
            small,
            palette([target for _, target in pairs]),
            tuple(len(half.frames) for half in pairs[0]),
            task,
        )

    def own(self, context: EncodedContext) -> EncodedContext:
        """A context that this model encoded, on its device and in its precision; another model's is refused."""
        context.check_fits(self.fingerprints(), self.config.sample_size)
        return context.to(self.device, self.jdit.dtype)

    def fingerprints(self) -> dict[str, str]:
        return {"stvae": fingerprint(self.stvae), "jdit": fingerprint(self.jdit)}

    def encode(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """Every picture's latent on its own, (1, channels, latent_frames, height, width)."""
        latents = []
        for frames, alike in groupby(pictures, lambda picture: len(picture.frames)):
            clips = torch.stack([squash(picture.frames, self.config.sample_size) for picture in alike])
            for group in clips.split(self.together(frames)):
                latents += self.stvae.to_latent(pad_frames(group.to(self.device))).float().split(1)
        return latents

    def decode(self, latents: Tensor, frames: int, ensemble_size: int) -> list[Tensor]:
        """One clip a query on the CPU, the mean of its ensemble: (3, frames, sample_size, sample_size) in [-1, 1]."""
        return [ensemble.mean(0) for ensemble in self.decode_members(latents, frames, ensemble_size)]

    def decode_members(self, latents: Tensor, frames: int, ensemble_size: int) -> Sequence[Tensor]:
        """Every query's ensemble on the CPU, (ensemble_size, 3, frames, sample_size, sample_size) in [-1, 1]."""
        parts = [self.stvae.from_latent(part)[:, :, :frames].float() for part in latents.split(self.together(frames))]
        clips = torch.cat(parts).clamp(-1, 1).cpu()
        if not clips.isfinite().all():
            raise LavinError(f"the prediction has NaN or infinite values; run in float32, not {self.stvae.dtype}")
        return clips.split(ensemble_size)

    def together(self, frames: int) -> int:
        """How many clips go through the ST-VAE at a time."""
        return max(1, PIXELS_TOGETHER // (frames * self.config.sample_size**2))

    def solve(
        self,
        pair_latents: Sequence[tuple[Tensor, Tensor]],
        query_latent: Tensor,
        noise: Tensor,
        grid: Tensor,
        guidance_scale: float,
        speed: Speed = EXACT,
        pairs_cache: ConditionCache | None = None,
    ) -> Tensor:
        """Follow the guided velocity from noise to the targets' latents.

        Args:
            pair_latents: one (input, target) a pair, each of batch 1, the same context for every query; or of the
                queries' batch, a context for each.
            query_latent: (batch, channels, latent_frames, height, width).
            noise: as many, where the paths start.
            grid: times from 0 to 1.
            guidance_scale: 1 skips the pass without context.
            speed: what is not computed anew at every step; nothing that changes the result if not given.
            pairs_cache: keys and values of the pairs, where a causal model encoded them earlier.
        """
        velocity = guided_velocity(self.jdit, pair_latents, query_latent, guidance_scale, speed, pairs_cache)
        with self.progress_bar(total=len(grid) - 1) as bar:

            def step(x: Tensor, t: Tensor) -> Tensor:
                bar.update()
                return velocity(x, t)

            return flow.solve(step, noise, grid)


def ensemble_spread(members: Tensor) -> Tensor:
    """Standard deviation of every pixel over an ensemble, (frames, height, width), on the scale [0, 1] of pictures.

    The variance is the unbiased one, its mean taken over the channels.

    Args:
        members: (ensemble, 3, frames, height, width) in [-1, 1], two or more.
    """
    return (members / 2).var(0).mean(0).sqrt()


def check_generators(generator: Generator | Sequence[Generator] | None, queries: int) -> list[Generator | None]:
    """One generator a query."""
    if isinstance(generator, Sequence):
        if len(generator) != queries:
            raise InputError(f"{len(generator)} generators for {queries} queries; give one for all, or one each")
        return list(generator)
    return [generator] * queries


def draw_noise(
    query_latent: Tensor, generators: Sequence[Generator | None], ensemble_size: int, frames: int | None = None
) -> Tensor:
    """float32 noise for every query's ensemble, on the generators' own device: a seed means the same on any.

    Args:
        query_latent: (queries, channels, latent_frames, height, width).
        frames: latent frames of the targets; None for the queries'.

    Returns:
        (queries * ensemble_size, channels, frames, height, width).
    """
    _, channels, query_frames, height, width = query_latent.shape
    shape = (ensemble_size, channels, frames or query_frames, height, width)
    noise = [torch.randn(shape, generator=g, device=g.device if g else "cpu") for g in generators]
    return torch.cat([part.to(query_latent.device) for part in noise])
