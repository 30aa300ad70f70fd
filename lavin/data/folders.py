"""A user's own folder of ``<name>_input.*`` / ``<name>_target.*`` pairs: the context of a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lavin.clips import CLIP_SUFFIXES, Clip, is_clip, media_files, read_media
from lavin.errors import InputError
from lavin.io import SUFFIXES

QUERY = "query"
"""Reserved name: ``query_target.*`` beside ``query.*`` is the known answer of a query, never half a pair."""

Media = Image.Image | Clip
"""A picture or clip as it is read from a file."""


class Pairs(Sequence):
    """Input-target pairs in the order in which the model sees them; items are (input, target), pictures or clips.

    Args:
        names: one name a pair.
        pairs: as many (input, target) tuples.
    """

    def __init__(self, names: Sequence[str], pairs: Sequence[tuple[Media, Media]]):
        if len(names) != len(pairs):
            raise ValueError(f"{len(names)} names for {len(pairs)} pairs")
        self.names = list(names)
        self.pairs = list(pairs)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Pairs(self.names[index], self.pairs[index])
        return self.pairs[index]

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"Pairs({', '.join(self.names)})"


def load_pairs(folder: str | Path, limit: int | None = None) -> Pairs:
    """Read the pairs of a folder, sorted by name.

    ``cat_input.jpg`` and ``cat_target.png`` make the pair ``cat``, or ``cat_input.mp4`` and ``cat_target.mp4``; every
    other file is left alone.

    Args:
        folder: where the pairs lie; subfolders are not searched.
        limit: read the first so many only.

    Raises:
        InputError: no such folder, no pairs, a half pair, a name twice, pictures beside clips, a broken file, or sizes
            that differ.
    """
    if limit is not None and limit < 1:
        raise InputError(f"a context needs at least 1 pair, not {limit}")
    files = find_pairs(folder)
    names = list(files)[:limit]
    return Pairs(names, [read_pair(name, *files[name]) for name in names])


def find_pairs(folder: str | Path) -> dict[str, tuple[Path, Path]]:
    """Name -> (input file, target file), sorted by name, without reading a picture; raises as ``load_pairs``."""
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"context folder {folder} does not exist")
    if not folder.is_dir():
        raise InputError(f"context {folder} is a file; a folder of <name>_input.*, <name>_target.* pairs is needed")
    files = media_files(folder)
    inputs, targets = halves(files, "_input", folder), halves(files, "_target", folder)
    if QUERY not in inputs:
        targets.pop(QUERY, None)
    missing = [f"{inputs[name].name} has no {name}_target.*" for name in sorted(inputs.keys() - targets.keys())]
    missing += [f"{targets[name].name} has no {name}_input.*" for name in sorted(targets.keys() - inputs.keys())]
    suffixes = ", ".join(suffix[1:] for suffix in (*SUFFIXES, *CLIP_SUFFIXES))
    if missing:
        raise InputError(f"context folder {folder}: {'; '.join(missing)} ({suffixes})")
    if not inputs:
        raise InputError(f"context folder {folder} has no <name>_input.*, <name>_target.* pairs ({suffixes})")
    check_one_kind([*inputs.values(), *targets.values()], folder)
    return {name: (inputs[name], targets[name]) for name in sorted(inputs)}


def check_one_kind(files: Sequence[Path], folder: Path) -> None:
    """Refuse a context that mixes pictures and clips: which of the two a query gets could not be told."""
    clips, images = ([path.name for path in files if is_clip(path) == wanted] for wanted in (True, False))
    if clips and images:
        raise InputError(
            f"context folder {folder} mixes pictures ({images[0]}) and clips ({clips[0]}); give pairs of one kind"
        )


def halves(files: Sequence[Path], ending: str, folder: Path) -> dict[str, Path]:
    """Name -> file of those whose stem is ``<name><ending>``; a name may occur once."""
    found: dict[str, Path] = {}
    for path in files:
        name = path.stem.removesuffix(ending)
        if name == path.stem or not name:
            continue
        if name in found:
            raise InputError(f"context folder {folder}: pair '{name}' has both {found[name].name} and {path.name}")
        found[name] = path
    return found


def read_pair(name: str, input_file: Path, target_file: Path) -> tuple[Media, Media]:
    """Both halves of a pair, which must have one size; of clips the target may be longer or shorter."""
    input, target = read_media(input_file), read_media(target_file)
    if input.size != target.size:
        sizes = ["{}x{}".format(*half.size) for half in (input, target)]
        raise InputError(
            f"context pair '{name}': {input_file.name} is {sizes[0]} but {target_file.name} is {sizes[1]}; "
            "both must have one size"
        )
    return input, target
