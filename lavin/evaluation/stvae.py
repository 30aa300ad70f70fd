"""How good an ST-VAE is: reconstructions by frame, its latent, and what every task's labels lose on the way through."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lavin.data.scene_layout import FPS
from lavin.data.scenes import Scenes
from lavin.errors import InputError
from lavin.evaluation.episodes import Row, draw_episode
from lavin.evaluation.report import tidy
from lavin.evaluation.scenes import SPLIT, Pools
from lavin.evaluation.scores import score
from lavin.metrics.perceptual import LPIPS, Unavailable
from lavin.metrics.restoration import psnr_db, ssim
from lavin.models.linear_codec import LinearCodec
from lavin.pictures import to_uint8
from lavin.tasks import REGISTRY, Task
from lavin.training.panels import grid

DEAD_VARIANCE = 1e-2
"""A latent channel whose mean varies less than this tells nothing: a standard deviation of 0.1 under unit noise."""
CODEC_SCENES, CODEC_CLIPS = 400, 64
"""Training scenes, and moving ones, that the linear codec is fitted on."""


@dataclass(frozen=True)
class Quality:
    """How like the originals the reconstructions of one kind of pictures are; means over them."""

    kind: str
    count: int
    frames: int
    psnr_db: float
    ssim: float
    lpips: float | None
    """None where its backbone is not on the machine."""
    linear_psnr_db: float
    """Of the linear codec, the floor."""
    psnr_by_frame: list[float]
    """One for every frame index."""
    ssim_by_frame: list[float]
    lpips_by_frame: list[float] | None

    @property
    def fall_db(self) -> float:
        """From the first frame to the worst."""
        return self.psnr_by_frame[0] - min(self.psnr_by_frame)


@dataclass(frozen=True)
class LatentStatistics:
    """Statistics of the raw latent over pictures, a number per channel where it says so."""

    mean: list[float]
    variance: list[float]
    """Of the posterior's mean."""
    noise: list[float]
    """Mean variance of the posterior."""
    kl: list[float]
    """To the standard normal, nats per latent element."""
    dead_channels: list[int]
    spectrum: list[float]
    """Shares of the total variance along the principal directions of the channels, largest first."""
    effective_channels: float
    """exp(entropy of the spectrum): 16 if all directions count the same."""


@dataclass(frozen=True)
class Ceiling:
    """What a task's metric says of the truth, painted and read back: at once, and after a trip through the ST-VAE."""

    task: str
    metric: str
    higher_is_better: bool
    code: float
    through: float
    queries: int


# --- Reconstructions --------------------------------------------------------------------------------------------------


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@torch.no_grad()
def quality(
    kind: str, model: nn.Module, codec: LinearCodec, clips: Iterable[Tensor], perceptual: LPIPS | None
) -> Quality:
    """Score the reconstructions of clips (3, frames, height, width) in [-1, 1], all of one length.

    Args:
        model: an ST-VAE, or what has its ``reconstruct``.
        codec: fitted.
        perceptual: None where there is none.
    """
    frame_scores: list[list[tuple[float, ...]]] = []
    floors = []
    for clip in clips:
        decoded = model.reconstruct(clip[None].to(model.device))[0].float().cpu().clamp(-1, 1)
        frame_scores.append([by_frame(decoded[:, f, None], clip[:, f, None], perceptual) for f in range(clip.shape[1])])
        linear = codec.decode(codec.encode(clip[None]))[0].clamp(-1, 1)
        floors.append(mean([psnr_db(linear[:, f, None], clip[:, f, None]).item() for f in range(clip.shape[1])]))
    table = torch.tensor(frame_scores, dtype=torch.float64)  # (clips, frames, metrics)
    by_index, overall = table.mean(0).T.tolist(), table.mean((0, 1)).tolist()
    return Quality(
        kind, len(table), table.shape[1], overall[0], overall[1], overall[2] if perceptual else None, mean(floors),
        by_index[0], by_index[1], by_index[2] if perceptual else None,
    )  # fmt: skip


def by_frame(decoded: Tensor, frame: Tensor, perceptual: LPIPS | None) -> tuple[float, ...]:
    """PSNR, SSIM and, if there is one, LPIPS of a frame (3, 1, height, width)."""
    found = [psnr_db(decoded, frame).item(), ssim(decoded, frame).item()]
    return (*found, perceptual.score(decoded, frame).item()) if perceptual else tuple(found)


def make_lpips(backbone: str) -> tuple[LPIPS | None, str | None]:
    """LPIPS, or None and why there is none."""
    try:
        return LPIPS(backbone), None
    except Unavailable as reason:
        return None, str(reason)


def fit_codec(size: int, frames: int, channels: int) -> LinearCodec:
    """The linear codec of training scenes: every ST-VAE is held against the same one."""
    codec = LinearCodec(channels)
    images = Scenes("train", size).samples(range(CODEC_SCENES))
    clips = [sample.rgb()[None] for sample in images]
    if frames > 1:
        moving = Scenes("train", size, frames=5).samples(range(CODEC_CLIPS))
        clips += [sample.rgb()[None] for sample in moving]
    codec.fit(clips)
    return codec


def scene_clips(size: int, frames: int, count: int, fps: float = FPS) -> list[Tensor]:
    """Held-out scenes as clips (3, frames, size, size)."""
    return [sample.rgb() for sample in Scenes(SPLIT, size, frames=frames, fps=fps).samples(range(count))]


def photo_clips(folder: str | Path, size: int, count: int, frames: int) -> dict[str, list[Tensor]]:
    """Validation photos of a data folder, at most ``count`` of a kind; see ``evaluation.photos.open_data_sets``.

    Those of the RGB-D video follow one another, and are also shown as clips of ``frames`` if there are as many.
    """
    from lavin.evaluation.photos import open_data_sets

    sets = {kind: data.validation for kind, data in open_data_sets(folder, size).items()}
    shown = {kind: [photos[i].rgb() for i in range(min(count, len(photos)))] for kind, photos in sets.items()}
    video = sets.get("rgbd", ())
    starts = range(0, len(video) - frames + 1, frames)
    clips = [torch.cat([video[start + i].rgb() for i in range(frames)], dim=1) for start in starts]
    return shown | ({"rgbd, video": clips} if clips else {})


def rates(text: str) -> list[float]:
    """Frames per second, as ``--fps`` lists them.

    Raises:
        InputError: no numbers above 0.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < rate < math.inf for rate in found):
        raise InputError(f"--fps is '{text}'; it must be numbers above 0, e.g. 8,24")
    return found


# --- The latent -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def latent_statistics(model: nn.Module, clips: Sequence[Tensor]) -> LatentStatistics:
    """Statistics over clips (3, frames, height, width)."""
    means, logvars = [], []
    for clip in clips:
        posterior = model.encode(clip[None].to(model.device)).latent_dist
        means.append(posterior.mean[0].flatten(1).double().cpu())
        logvars.append(posterior.logvar[0].flatten(1).double().cpu())
    mu, logvar = torch.cat(means, 1), torch.cat(logvars, 1)
    kl = (mu.square() + logvar.exp() - 1 - logvar).mean(1) / 2
    variance = mu.var(1)
    shares = torch.linalg.eigvalsh(torch.cov(mu)).flip(0).clamp_min(0)
    shares = shares / shares.sum()
    entropy = -(shares * shares.clamp_min(1e-300).log()).sum().item()
    dead = [channel for channel, value in enumerate(variance.tolist()) if value < DEAD_VARIANCE]
    return LatentStatistics(
        mu.mean(1).tolist(), variance.tolist(), logvar.exp().mean(1).tolist(), kl.tolist(), dead, shares.tolist(),
        math.exp(entropy),
    )  # fmt: skip


# --- Tasks ------------------------------------------------------------------------------------------------------------


def task_names(names: Sequence[str] | None) -> list[str]:
    """These tasks, or all: of pictures and of clips, with people and without."""
    from lavin.pipeline import find_task

    return [find_task(name).name for name in names] if names else sorted(REGISTRY)


def ceilings(model: nn.Module, names: Sequence[str], size: int, queries: int, pool: int) -> Iterator[Ceiling]:
    """What each task's labels lose: paint → encode → decode → read, on held-out scenes.

    Args:
        pool: scenes that the queries are drawn from; a tenth as many moving ones.
    """
    pools, moving = Pools(size, pool), Pools(size, max(4, pool // 10))
    for name in names:
        task = REGISTRY[name]
        yield ceiling(model, task, (moving if task.clips else pools).of(task), queries)


@torch.no_grad()
def ceiling(model: nn.Module, task: Task, pool, queries: int) -> Ceiling:
    """The ceiling of one task; queries without a label to score are left out by the metric."""
    row = Row(task.name, task)
    episodes = [draw_episode(pool, row, 0, 0, index) for index in range(queries)]
    targets = [episode.target for episode in episodes]
    decoded = [model.reconstruct(clip[None].to(model.device))[0].float().cpu().clamp(-1, 1) for clip in targets]
    higher = bool(task.metric().higher_is_better)
    return Ceiling(
        task.name, task.metric_name, higher, score(episodes, targets), score(episodes, decoded), len(episodes)
    )


# --- Models and reports -----------------------------------------------------------------------------------------------


def load(name_or_folder: str) -> nn.Module:
    """An ST-VAE, or diffusers' ``AutoencoderKLCogVideoX`` as it trained and saved it.

    Raises:
        InputError: nothing of that name.
    """
    from lavin.bundled import read_json
    from lavin.training.latents import load_stvae

    config = Path(name_or_folder) / "config.json"
    if config.is_file() and read_json(config).get("_class_name") == "AutoencoderKLCogVideoX":
        from lavin.training.cogvideox_baseline import AutoencoderKLCogVideoX

        return AutoencoderKLCogVideoX.from_pretrained(name_or_folder).eval().requires_grad_(False)
    return load_stvae(name_or_folder)


def check(size: int, frames: int, perceptual: bool) -> None:
    """Refuse sizes that nothing can be scored at.

    Raises:
        InputError: by option.
    """
    least = 32 if perceptual else 16
    if size < least or size % 8:
        raise InputError(f"size is {size}; it must be a multiple of 8, {least} or more")
    if frames < 5 or frames % 4 != 1:
        near = max(5, 1 + 4 * round((frames - 1) / 4))
        raise InputError(f"frames is {frames}; clips have 1 + 4k frames, k at least 1, e.g. {near}")


def to_dict(
    protocol: dict[str, Any], qualities: Sequence[Quality], latent: LatentStatistics, tasks: Sequence[Ceiling]
) -> dict[str, Any]:
    """The whole report, JSON-able; NaN becomes None."""
    return {
        "protocol": protocol,
        "reconstruction": [tidy_all(asdict(quality)) for quality in qualities],
        "latent": tidy_all(asdict(latent)),
        "tasks": [tidy_all(asdict(task)) for task in tasks],
    }


def tidy_all(values: dict[str, Any]) -> dict[str, Any]:
    """``report.tidy``, inside lists too."""
    return {
        name: [tidy(item) for item in value] if isinstance(value, list) else tidy(value)
        for name, value in values.items()
    }


def print_report(
    qualities: Sequence[Quality], latent: LatentStatistics, tasks: Sequence[Ceiling], why_not: str | None
) -> None:
    """Three tables and what could not be measured."""
    from rich.table import Table

    from lavin.evaluation.report import number, print_table

    table = Table(title="reconstructions", caption="linear: PCA of patches, the floor; fall: first to worst frame")
    for name in ("pictures", "count", "PSNR dB", "linear", "SSIM", "LPIPS", "fall dB", "PSNR by frame"):
        table.add_column(name, justify="left" if name == "pictures" else "right")
    for each in qualities:
        frames = " ".join(f"{value:.1f}" for value in each.psnr_by_frame) if each.frames > 1 else "–"
        table.add_row(
            each.kind, str(each.count), f"{each.psnr_db:.2f}", f"{each.linear_psnr_db:.2f}", f"{each.ssim:.4f}",
            "–" if each.lpips is None else f"{each.lpips:.4f}", f"{each.fall_db:.2f}" if each.frames > 1 else "–",
            frames,
        )  # fmt: skip
    print_table(table)
    if why_not:
        print(why_not)
    print(
        f"latent: mean {mean(latent.mean):+.3f}, variance {mean(latent.variance):.3f} ({min(latent.variance):.3f} to "
        f"{max(latent.variance):.3f} by channel), KL {mean(latent.kl):.2f} nats an element, "
        f"{len(latent.dead_channels)} dead of {len(latent.mean)} channels, as wide as {latent.effective_channels:.1f} "
        f"equal ones; spectrum {' '.join(f'{share:.3f}' for share in latent.spectrum[:6])} …"
    )
    table = Table(title="labels: painted and read back", caption="code: at once; through: after the ST-VAE")
    for name in ("task", "metric", "code", "through"):
        table.add_column(name, justify="right" if name in ("code", "through") else "left")
    for each in tasks:
        better = "↑" if each.higher_is_better else "↓"
        table.add_row(each.task, f"{each.metric} {better}", number(each.code), number(each.through))
    print_table(table)


@torch.no_grad()
def draw(model: nn.Module, kinds: dict[str, list[Tensor]], columns: int = 8) -> Image.Image:
    """Originals, reconstructions and errors (four times as large, grey is none), a few of each kind.

    Of clips the frames of the first, evenly spaced.
    """
    shown = []
    for clips in kinds.values():
        if clips[0].shape[1] > 1:
            index = torch.linspace(0, clips[0].shape[1] - 1, max(2, columns // len(kinds))).round().long()
            decoded = model.reconstruct(clips[0][None].to(model.device))[0].float().cpu()
            shown += [(clips[0][:, f], decoded[:, f]) for f in index.tolist()]
            continue
        for clip in clips[: max(2, columns // len(kinds))]:
            shown.append((clip[:, 0], model.reconstruct(clip[None].to(model.device))[0, :, 0].float().cpu()))
    rows = [
        [to_uint8(picture) for picture in row]
        for row in (*zip(*shown, strict=True), [4 * (found - true) / 2 for true, found in shown])
    ]
    return Image.fromarray(grid(rows).permute(1, 2, 0).numpy())
