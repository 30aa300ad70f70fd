"""LavinPipeline: input-target pairs and a query in, the query's predicted target out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Generator, Tensor

from lavin import flow
from lavin.bundled import find_model, read_index
from lavin.context import condition, unconditional
from lavin.encoded import EncodedContext, fingerprint, thumbnails
from lavin.errors import InputError, LavinError
from lavin.labels import find_task, palette, standard_definition
from lavin.models.jdit import ConditionCache, JDiT
from lavin.models.stvae import STVAE, latent_frames, pad_frames
from lavin.models.weights import load_component
from lavin.pictures import Picture, read_context, read_queries, squash, to_output
from lavin.speed import SPEEDS, Speed, find_speed
from lavin.suggest import unknown

OUTPUT_TYPES = ("pil", "pt", "np", "latent")
TIME_GRIDS = ("linear_quadratic", "uniform")
SETTINGS = ("sample_size", "time_grid", "max_pairs")
"""What ``model_index.json`` says beside the two components."""

Velocity = Callable[[Tensor, Tensor], Tensor]


@dataclass
class LavinOutput(BaseOutput):
    """What a call predicts; every list has one entry a query, in the order of the queries.

    Args:
        images: at each query's own size. ``pil``: a picture, or a list of frames; ``np``: float32 (height, width, 3)
            in [0, 1], clips (frames, height, width, 3); ``pt``: float32 (3, frames, height, width) in [-1, 1].
            None for ``latent``.
        labels: what the task reads from each prediction, resized to the query's size; None without a task.
        latents: (queries * ensemble_size, channels, latent_frames, height, width), in the J-DiT's scale.
    """

    images: list[Any] | None
    labels: list[Any] | None
    latents: Tensor


class LavinPipeline(DiffusionPipeline):
    """In-context vision: the pairs say what to do, the query is what to do it to.

    Args:
        stvae: clips to latents and back.
        jdit: velocity of the target's latent, given the latents of pairs and query.
        sample_size: side in pixels of the square at which the model works, a multiple of 16.
        time_grid: ``linear_quadratic`` (release) or ``uniform``; see ``lavin.flow.time_grid``.
        max_pairs: most pairs that the model was trained with; the command takes no more unless told to.

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
    ):
        super().__init__()
        if sample_size < 16 or sample_size % 16:
            raise InputError(f"sample_size is {sample_size}; it must be a multiple of 16 (8x ST-VAE, 2x patches)")
        if time_grid not in TIME_GRIDS:
            raise InputError(unknown("time grid", time_grid, TIME_GRIDS))
        self.register_modules(stvae=stvae, jdit=jdit)
        self.register_to_config(sample_size=sample_size, time_grid=time_grid, max_pairs=max_pairs)
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
        num_inference_steps: int = 20,
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
                release's "20 timesteps". Even and at least 4 with the ``linear_quadratic`` grid.
            guidance_scale: how much the pairs count beyond what the query alone predicts; 1 is no guidance and
                takes half the time.
            generator: draws the noise of all queries in order; or one generator a query, so that a query's
                prediction does not depend on the others.
            output_type: ``pil``, ``np``, ``pt`` or ``latent``.
            task: also read each prediction as this task's label, in its standard drawing style.
            ensemble_size: predictions from so many noises are averaged.
            speed: ``exact``, ``default`` or ``fast``, see ``lavin.speed``.

        Raises:
            InputError: something above does not hold; the message says what.
        """
        self.check_inputs(num_inference_steps, guidance_scale, output_type, task, ensemble_size)
        speed = find_speed(speed)
        queries = read_queries(query)
        generators = check_generators(generator, len(queries))
        task = find_task(task) if task else None
        context = self.encode_context(context) if not isinstance(context, EncodedContext) else self.own(context)
        definition = standard_definition(task, context.colours) if task else None

        query_latent = torch.cat([self.encode(picture) for picture in queries])
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

        clips = self.decode(latents, frames, ensemble_size)
        sizes = [picture.size for picture in queries]
        images = [to_output(clip, size, output_type) for clip, size in zip(clips, sizes, strict=True)]
        labels = task and [
            task.resize(task.read(clip, definition), size) for clip, size in zip(clips, sizes, strict=True)
        ]
        return LavinOutput(images=images, labels=labels, latents=latents)

    def check_inputs(
        self, num_inference_steps: int, guidance_scale: float, output_type: str, task: str | None, ensemble_size: int
    ) -> None:
        """Refuse what cannot work before any picture is read or encoded."""
        if output_type not in OUTPUT_TYPES:
            raise InputError(unknown("output_type", output_type, OUTPUT_TYPES))
        if not 0 <= guidance_scale < float("inf"):
            raise InputError(f"guidance_scale is {guidance_scale}; a number from 0 is needed, 1 is no guidance")
        if ensemble_size < 1:
            raise InputError(f"ensemble_size is {ensemble_size}; at least 1 prediction is needed")
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
        latents = [(self.encode(pair_input), self.encode(pair_target)) for pair_input, pair_target in pairs]
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

    def encode(self, picture: Picture) -> Tensor:
        """A picture's latent on its own, (1, channels, latent_frames, height, width)."""
        clip = squash(picture.frames, self.config.sample_size).to(self.device)
        return self.stvae.to_latent(pad_frames(clip[None])).float()

    def decode(self, latents: Tensor, frames: int, ensemble_size: int) -> list[Tensor]:
        """One clip a query on the CPU, the mean of its ensemble: (3, frames, sample_size, sample_size) in [-1, 1]."""
        clips = []
        for ensemble in latents.split(ensemble_size):
            predictions = [self.stvae.from_latent(latent[None])[0, :, :frames].float() for latent in ensemble]
            clip = torch.stack(predictions).clamp(-1, 1).mean(0)
            if not clip.isfinite().all():
                raise LavinError(f"the prediction has NaN or infinite values; run in float32, not {self.stvae.dtype}")
            clips.append(clip.cpu())
        return clips

    def solve(
        self,
        pair_latents: Sequence[tuple[Tensor, Tensor]],
        query_latent: Tensor,
        noise: Tensor,
        grid: Tensor,
        guidance_scale: float,
        speed: Speed = SPEEDS["default"],
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
            speed: what is not computed anew at every step.
            pairs_cache: keys and values of the pairs, where a causal model encoded them earlier.
        """
        with_context = self.velocity(pair_latents, query_latent, speed, pairs_cache)
        without_context = self.velocity([], query_latent, speed) if guidance_scale != 1 else None
        low, high = speed.guidance_interval
        with self.progress_bar(total=len(grid) - 1) as bar:

            def step(x: Tensor, t: Tensor) -> Tensor:
                slope = with_context(x, t)
                if without_context is not None and low <= t[0] <= high:
                    slope = flow.guide(slope, without_context(x, t), guidance_scale)
                bar.update()
                return slope

            return flow.solve(step, noise, grid)

    def velocity(
        self,
        pair_latents: Sequence[tuple[Tensor, Tensor]],
        query_latent: Tensor,
        speed: Speed,
        pairs_cache: ConditionCache | None = None,
    ) -> Velocity:
        """(x, t) -> velocity of the query's target; without pairs, as guidance needs it.

        A causal model then sees the query alone, as its first target does in training; a full one sees a zero frame
        before it (release).
        """
        causal = self.jdit.config.attention == "causal"
        pairs = [half for pair in pair_latents for half in pair]
        clip_frames = [half.shape[2] for half in pairs]
        if causal and speed.cached:
            if pairs and pairs_cache is None:
                pairs_cache = self.jdit.encode_condition(torch.cat(pairs, dim=2), clip_frames)
            cache = self.jdit.encode_condition(query_latent, [query_latent.shape[2]], past=pairs_cache)
            return lambda x, t: self.jdit(x, t, cache=cache).float()
        clip_frames = [*clip_frames, query_latent.shape[2]]
        sequence = condition([[half.expand(len(query_latent), -1, -1, -1, -1) for half in pairs]], query_latent)
        if not pairs and not causal:
            clip_frames, sequence = [1, *clip_frames], unconditional(query_latent)
        if causal or speed.refresh == 1:
            return lambda x, t: self.jdit(x, t, sequence, clip_frames=clip_frames).float()
        return self.refreshed_velocity(sequence, clip_frames, speed.refresh)

    def refreshed_velocity(self, sequence: Tensor, clip_frames: list[int], every: int | None) -> Velocity:
        """The velocity of a full model that computes the condition at every ``every``-th call only, or at the first."""
        calls, cache = 0, None

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            nonlocal calls, cache
            if cache is None or (every is not None and calls % every == 0):
                found, cache = self.jdit(x, t, sequence, clip_frames=clip_frames, return_cache=True)
            else:
                found = self.jdit(x, t, cache=cache)
            calls += 1
            return found.float()

        return velocity


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
