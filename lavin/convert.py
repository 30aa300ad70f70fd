"""Model folders from the authors' release, and back: weights pass one at a time, a folder is written whole or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lavin.bundled import INDEX, RELEASED_JDIT, RELEASED_STVAE, find_model, read_index, read_json
from lavin.errors import InputError
from lavin.models import released
from lavin.models.jdit import JDiT
from lavin.models.released_archive import TEMPLATE_ARCHIVE, extract, find_source, released_folder
from lavin.models.stvae import STVAE
from lavin.models.weights import (
    Weights,
    build,
    differences,
    open_component,
    refuse,
    shapes,
    write_component,
    write_safetensors,
    written_whole,
)
from lavin.pipeline import LavinPipeline

TEMPLATES = "template"
"""Folder of the release's contexts, beside the converted model."""


def convert_released(
    source: str | Path,
    out: str | Path,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "2GB",
    force: bool = False,
) -> Path:
    """Write the release as a model folder, which ``LavinPipeline.from_pretrained`` loads.

    Args:
        source: folder in the release's layout; a folder with the published archives, or ``weights.tar.gz`` itself; or
            a hub id. The contexts of a ``template.tar.gz`` beside the weights go to ``template/`` in the output.
        out: folder to write, which appears only when it is complete.
        dtype: to store the weights in; None keeps every one as it is.
        max_shard_size: of a weight file.
        force: replace a model folder that is there.

    Raises:
        InputError: the source is no release or damaged, or the output exists or cannot be written.
    """
    source = find_source(source)
    check_apart(source, out)
    with written_whole(out, (INDEX,), force) as folder:
        with released_folder(source, scratch=folder) as release_folder:
            release = released.open_release(release_folder)
            write_settings(folder, release)
            write_component(folder / "stvae", release.stvae_weights.cast(dtype), max_shard_size)
            write_component(folder / "jdit", release.jdit_weights.cast(dtype), max_shard_size)
        templates = (source.parent if source.is_file() else source) / TEMPLATE_ARCHIVE
        if templates.is_file():
            (folder / TEMPLATES).mkdir()
            extract(templates, folder / TEMPLATES)
    return Path(out)


def write_settings(folder: Path, release: released.Release) -> None:
    """Every JSON file of a model folder, from networks that have no weights yet."""
    LavinPipeline(release.stvae, release.jdit, **release.settings).save_config(folder)
    release.stvae.save_config(folder / "stvae")
    release.jdit.save_config(folder / "jdit")


def convert_to_released(
    model: str | Path, out: str | Path, dtype: torch.dtype | None = None, force: bool = False
) -> list[str]:
    """Write a model folder in the release's layout, for code written for the release.

    Args:
        model: a bundled model's name, or a model folder.
        out: folder to write, which appears only when it is complete.
        dtype: to store the weights in; None keeps every one as it is, and then the way there and back is exact.
        force: replace a released folder that is there.

    Returns:
        What code written for the release must know besides, one sentence each; none for the release itself.

    Raises:
        InputError: the model has something that the layout cannot say, or files are damaged, or the output exists.
    """
    folder = find_model(model)
    check_apart(folder, out)
    jdit = open_part(JDiT, folder / "jdit")
    stvae = open_part(STVAE, folder / "stvae")
    refuse({part.weights.origin: differences(part.weights, shapes(part.network)) for part in (jdit, stvae)})
    check_expressible(folder, jdit.network, stvae.network)
    settings = read_index(folder)
    with written_whole(out, (*RELEASED_JDIT, RELEASED_STVAE), force) as aside:
        config = released_config(jdit.network, stvae.network, settings)
        (aside / released.CONFIG).write_text(json.dumps(config, indent=1) + "\n")
        write_safetensors(aside / RELEASED_JDIT[0], jdit.released(released.JDIT_NAMES).cast(dtype))
        state = stvae.released(released.STVAE_NAMES).cast(dtype)
        save_pickle({released.STATE_DICT: {name: state.read(name) for name in state.entries}}, aside / RELEASED_STVAE)
    return notes(stvae.network)


def save_pickle(content: dict[str, Any], path: Path) -> None:
    try:
        torch.save(content, path)
    except RuntimeError as error:  # what PyTorch's zip writer makes of a full disk
        raise OSError(str(error)) from error


@dataclass
class Part:
    """A network of a model folder: without weights, and where they are, under our names."""

    network: JDiT | STVAE
    weights: Weights

    def released(self, rules: Sequence[tuple[str, str]]) -> Weights:
        """The same weights under the release's names and in its order."""
        ours = {theirs: ours for ours, theirs in released.released_names(self.weights.entries, rules).items()}
        entries = {theirs: self.weights.entries[name] for theirs, name in ours.items()}
        if isinstance(self.network, STVAE):
            return Weights(self.weights.origin, entries, lambda theirs: self.weights.read(ours[theirs]))
        head_dim = self.network.config.hidden_size // self.network.config.num_heads
        return Weights(
            self.weights.origin,
            entries,
            lambda theirs: released.to_released_order(ours[theirs], self.weights.read(ours[theirs]), head_dim),
        )


def open_part(cls: type, folder: Path) -> Part:
    return Part(build(cls, read_json(folder / "config.json"), folder), open_component(folder))


def check_expressible(folder: Path, jdit: JDiT, stvae: STVAE) -> None:
    """Refuse what the release's layout has no place for.

    Raises:
        InputError: one line that names all of it.
    """
    wrong = [
        f"{name} is {jdit.config[name]}, not {value}"
        for name, value in released.FIXED.items()
        if jdit.config[name] != value
    ]
    if stvae.config.linear_shortcut:
        wrong.append("the ST-VAE has a linear_shortcut")
    if wrong:
        raise InputError(f"model {folder} does not fit the release's layout: {', '.join(wrong)}")


def released_config(jdit: JDiT, stvae: STVAE, settings: dict[str, Any]) -> dict[str, Any]:
    """What ``config.json`` says beside released files; ``load_released`` reads all of it back."""
    j, v = jdit.config, stvae.config
    return {
        "jdit": {
            "hidden_size": j.hidden_size,
            "num_layers": j.num_layers,
            "num_heads": j.num_heads,
            "kv_group": j.num_heads // (j.num_kv_heads or j.num_heads),
            "latent_channels": j.latent_channels,
            "patch_size": [j.patch_size, j.patch_size],
        },
        "stvae": {
            "block_out_channels": list(v.block_out_channels),
            "layers_per_block": v.layers_per_block,
            "latent_channels": v.latent_channels,
            "norm_num_groups": v.norm_num_groups,
            "temporal_compression_ratio": 4,
            "norm_scope": v.norm_scope,
            "shift": v.shift,
            "scale": v.scale,
        },
        "pipeline": {name: settings[name] for name in released.SETTINGS if name in settings},
    }


def notes(stvae: STVAE) -> list[str]:
    """What of an ST-VAE the release's code takes for granted and is different here."""
    found = []
    if stvae.config.norm_scope != "clip":
        found.append("norm_scope is 'frame': the release's code gives the same images, but other clips")
    if (stvae.config.shift, stvae.config.scale) != (released.SHIFT, released.SCALE):
        found.append("shift and scale of the latents are not the release's constants: take them from config.json")
    return found


def check_apart(source: Path, out: str | Path) -> None:
    """Refuse an output that would replace what is read."""
    source, target = source.resolve(), Path(out).resolve()
    if source == target or target in source.parents:
        raise InputError(f"output {out} holds the source {source}; give another --out")
