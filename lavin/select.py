"""Choosing the context: which pairs of a pool a query is shown.

    >>> pool = PairFolder("pool/")
    >>> selector = Selector(pool, "similar", LatentFeatures(pipe.stvae, pipe.config.sample_size))
    >>> chosen = selector("img.png", pairs=4)  # numbers of pairs, the most important first
    >>> out = pipe(context=[pool[i] for i in chosen], query="img.png")

Every strategy is nested: its choice of K pairs is the beginning of its choice of more. Torch and transformers are
imported by what needs them, so that a bad option is found at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lavin.data.folders import find_pairs, read_pair
from lavin.errors import InputError
from lavin.suggest import unknown

STRATEGIES = ("first", "random", "similar", "diverse")
BY_FEATURES = ("similar", "diverse")
"""Strategies that look at the pictures."""
BATCH = 16
"""Pictures whose features are computed together."""

Features = Callable[[Sequence[Any]], np.ndarray]
"""Pictures, of any kind that the pipeline takes -> (pictures, size); the nearer two rows, the more alike."""


class PairFolder(Sequence):
    """A folder of ``<name>_input.*`` / ``<name>_target.*`` pairs, read when asked for: a pool may be large.

    Args:
        folder: see ``lavin.data.folders.load_pairs``; its names are checked here, its pictures as they are read.
    """

    def __init__(self, folder: str | Path):
        self._files = list(find_pairs(folder).items())
        self.names = [name for name, _ in self._files]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int):
        """(input, target) pictures or clips of a pair; raises InputError if they are broken or differ in size."""
        name, files = self._files[index]
        return read_pair(name, *files)


class Selector:
    """Chooses pairs of one pool, query by query; the pool's features are computed once, when first needed.

    Args:
        pool: (input, target) pairs; targets are never looked at, since a query has none.
        strategy: ``first``; ``random``: drawn with the seed, the same for every query; ``similar``: those whose input
            is nearest to the query; ``diverse``: see ``diverse``.
        features: for ``similar`` and ``diverse``: ``LatentFeatures`` or ``EncoderFeatures``.
        seed: of ``random``.

    Raises:
        InputError: unknown strategy, or one that needs features and has none.
    """

    def __init__(self, pool: Sequence[tuple[Any, Any]], strategy: str, features: Features | None = None, seed: int = 0):
        check_strategy(strategy)
        if strategy in BY_FEATURES and features is None:
            raise InputError(f"strategy '{strategy}' compares pictures; give features to compare")
        self.pool, self.strategy, self.features, self.seed = pool, strategy, features, seed
        self._pool_features: np.ndarray | None = None

    def __call__(self, query: Any, pairs: int) -> list[int]:
        """Numbers of the chosen pairs, in the order in which the model should see them.

        Args:
            query: a picture of any kind that the pipeline takes.
            pairs: how many, 1 ... all of the pool.

        Raises:
            InputError: the pool has fewer pairs, or a picture cannot be read.
        """
        if not 1 <= pairs <= len(self.pool):
            raise InputError(f"{pairs} pairs cannot be chosen from a pool of {len(self.pool)}")
        if self.strategy == "first":
            return list(range(pairs))
        if self.strategy == "random":
            return np.random.default_rng(self.seed).permutation(len(self.pool))[:pairs].tolist()
        order = similar if self.strategy == "similar" else diverse
        return order(self.pool_features(), self._compute([query])[0], pairs)

    def pool_features(self) -> np.ndarray:
        """Features of every pair's input, (pairs, size)."""
        if self._pool_features is None:
            starts = range(0, len(self.pool), BATCH)
            parts = [range(start, min(start + BATCH, len(self.pool))) for start in starts]
            self._pool_features = np.concatenate([self._compute([self.pool[i][0] for i in part]) for part in parts])
        return self._pool_features

    def _compute(self, pictures: Sequence[Any]) -> np.ndarray:
        found = np.asarray(self.features(pictures), dtype=np.float64)
        if not np.isfinite(found).all():
            raise InputError("the encoder's features have NaN or infinite values; run it in float32")
        return found


def check_strategy(name: str, where: str = "") -> None:
    """Refuse an unknown strategy; ``where``, e.g. an option, begins the message."""
    if name not in STRATEGIES:
        raise InputError(where + unknown("selection strategy", name, STRATEGIES))


# --- Strategies: features (pool, size) and query (size,) -> numbers of pairs ------------------------------------------


def similar(features: np.ndarray, query: np.ndarray, pairs: int) -> list[int]:
    """The nearest to the query in Euclidean distance, nearest first; of equals the earlier in the pool."""
    return distances(features, query).argsort(kind="stable")[:pairs].tolist()


def diverse(features: np.ndarray, query: np.ndarray, pairs: int) -> list[int]:
    """Farthest-point traversal: the nearest to the query, then again and again the one farthest from all chosen.

    Whatever the start, no pair of the pool is then more than twice as far from a chosen one as the best choice of so
    many allows (Gonzalez 1985, "Clustering to minimize the maximum intercluster distance").
    """
    chosen = similar(features, query, 1)
    gap = distances(features, features[chosen[0]])
    while len(chosen) < pairs:
        gap[chosen] = -1  # copies of a chosen pair are as far as it is: 0, and still not itself
        chosen.append(int(gap.argmax()))
        gap = np.minimum(gap, distances(features, features[chosen[-1]]))
    return chosen


def distances(features: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Euclidean distance of every row to a point, (rows,)."""
    return np.sqrt(np.square(features - point).sum(1))


# --- Features ---------------------------------------------------------------------------------------------------------


class LatentFeatures:
    """ST-VAE latents in the J-DiT's scale, where channels have unit variance, averaged over place and time.

    Args:
        stvae: the pipeline's own, so that nothing more is loaded.
        sample_size: side in pixels to which pictures are squashed.
    """

    def __init__(self, stvae, sample_size: int):
        self.stvae, self.sample_size = stvae, sample_size

    def __call__(self, pictures: Sequence[Any]) -> np.ndarray:
        """(pictures, latent_channels) float32."""
        import torch

        from lavin.models.stvae import pad_frames
        from lavin.pictures import as_picture, squash

        means = []
        with torch.no_grad():
            for number, picture in enumerate(pictures, 1):
                clip = squash(as_picture(picture, f"picture {number}").frames, self.sample_size)
                latent = self.stvae.to_latent(pad_frames(clip[None].to(self.stvae.device)))
                means.append(latent.float().mean(dim=(2, 3, 4)))  # (1, channels)
        return torch.cat(means).cpu().numpy()


class EncoderFeatures:
    """Features of a ``transformers`` image encoder, scaled to unit length: distances order pictures as cosines do.

    An encoder that is trained to compare pictures (CLIP, SigLIP) gives its image embedding, any other (DINOv2, ViT,
    ConvNeXt, ...) the mean of its last hidden state: the pooler on top of it may never have been trained.

    Args:
        name_or_folder: a model on the Hugging Face hub, or a folder with config, weights (safetensors) and the image
            processor's preprocessor_config.json.
        device: where it runs.

    Raises:
        InputError: ``transformers`` is missing, there is no such model, or it is no image encoder.
    """

    def __init__(self, name_or_folder: str | Path, device: Any = "cpu"):
        try:
            from transformers import AutoImageProcessor, AutoModel
        except ImportError as error:
            raise InputError(
                f"encoder '{name_or_folder}' needs the package transformers: pip install 'lavin[encoders]'"
            ) from error
        self.name, self.device = str(name_or_folder), device
        try:
            self.processor = AutoImageProcessor.from_pretrained(self.name)
            model = AutoModel.from_pretrained(self.name, use_safetensors=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise InputError(
                f"encoder '{name_or_folder}' cannot be loaded; a hub name or a folder with config.json, "
                f"preprocessor_config.json and *.safetensors is needed ({first_line(error)})"
            ) from error
        if not hasattr(model, "get_image_features") and model.main_input_name != "pixel_values":
            raise InputError(f"encoder '{name_or_folder}' reads {model.main_input_name}; an image encoder is needed")
        self.model = model.to(device).eval()

    def __call__(self, pictures: Sequence[Any]) -> np.ndarray:
        """(pictures, size) float32, rows of length 1; of a clip its first frame counts."""
        import torch

        images = [first_frame(picture, f"picture {number}") for number, picture in enumerate(pictures, 1)]
        pixels = self.processor(images=images, return_tensors="pt")["pixel_values"].to(self.device)
        with torch.no_grad():
            if hasattr(self.model, "get_image_features"):
                found = self.model.get_image_features(pixel_values=pixels)
                found = found if isinstance(found, torch.Tensor) else found.pooler_output  # a tensor before 5.0
            else:
                hidden = self.model(pixel_values=pixels).last_hidden_state  # (n, tokens, size) or (n, size, h, w)
                found = hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)
        return torch.nn.functional.normalize(found.float(), dim=1).cpu().numpy()


def first_frame(picture: Any, name: str) -> np.ndarray:
    """uint8 (height, width, 3) of any picture."""
    from lavin.pictures import as_picture
    from lavin.tasks.codes import levels_from_clip

    frame = as_picture(picture, name).frames[0]
    levels = frame if not frame.is_floating_point() else levels_from_clip(frame).round()
    return levels.permute(1, 2, 0).byte().numpy()


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
