"""Where the release's files come from: a folder, the published archives, or the Hugging Face hub."""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from lavin.bundled import RELEASED_JDIT, RELEASED_STVAE, is_released
from lavin.errors import InputError

WEIGHTS_ARCHIVE = "weights.tar.gz"
TEMPLATE_ARCHIVE = "template.tar.gz"
"""Context folders of the release's tasks."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""owner/name"""
WANTED = f"{RELEASED_JDIT[0]} (or shards and {RELEASED_JDIT[1]}) and {RELEASED_STVAE}, or {WEIGHTS_ARCHIVE}, are needed"


@contextmanager
def released_folder(source: str | Path, scratch: Path | None = None) -> Iterator[Path]:
    """The folder that holds the released files, which lives at least as long as the context.

    Args:
        source: that folder or one above it; a folder with ``weights.tar.gz``, or such an archive itself, unpacked for
            the occasion; or, where no such file or folder exists, a hub id ``owner/name``.
        scratch: where archives are unpacked; the system's temporary folder if None.

    Raises:
        InputError: nothing of the kind is there, an archive is damaged or unsafe, or the hub cannot be reached.
    """
    folder = find_source(source)
    archive = folder if folder.is_file() else folder / WEIGHTS_ARCHIVE
    found = [] if folder.is_file() else release_folders(folder)
    if found or not archive.is_file():
        yield only_one(found, folder)
        return
    with tempfile.TemporaryDirectory(prefix=".lavin-", dir=scratch) as unpacked:
        extract(archive, Path(unpacked))
        yield only_one(release_folders(Path(unpacked)), archive)


def find_source(source: str | Path) -> Path:
    """The folder or archive that a user named, downloaded if it is a hub id."""
    path = Path(source)
    if path.exists():
        return path
    if not HUB_ID.fullmatch(str(source)):
        raise InputError(f"release {source} does not exist; {WANTED}")
    return download(str(source))


def download(hub_id: str) -> Path:
    """Folder of a hub repository's released files, from the network or from the hub's own cache."""
    import huggingface_hub

    wanted = ["*.safetensors", "*.safetensors.index.json", RELEASED_STVAE, "config.json", "*.tar.gz"]
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=wanted))
    except Exception as error:  # its HTTP library's own errors too, which share no base and change with versions
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"release {hub_id} is no folder here and cannot be had from the Hugging Face hub ({reason})"
        ) from error


def release_folders(folder: Path) -> list[Path]:
    """The folder itself, or those right below it, that hold the release."""
    if is_released(folder):
        return [folder]
    return sorted(path for path in folder.iterdir() if path.is_dir() and is_released(path))


def only_one(found: list[Path], source: Path) -> Path:
    if not found:
        raise InputError(f"release {source}: {WANTED}")
    if len(found) > 1:
        raise InputError(f"release {source}: several folders hold one: {', '.join(path.name for path in found)}")
    return found[0]


def extract(archive: Path, target: Path) -> None:
    """Unpack an archive; whatever would leave the target, and links and devices, stop it.

    Raises:
        InputError: an unsafe member, or a damaged archive.
    """
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                check_member(archive, member)
                write_member(tar, member, target / member.name)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InputError(f"{archive}: cannot be unpacked ({error})") from error


def write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Unpack a checked file or folder without its mode and owner; ``TarFile.extract`` can do so from 3.11.4 on only."""
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tar.extractfile(member) as packed, path.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)


def check_member(archive: Path, member: tarfile.TarInfo) -> None:
    """Only plain files and folders, only below the target."""
    path, windows = PurePosixPath(member.name), PureWindowsPath(member.name)
    if path.is_absolute() or windows.is_absolute() or windows.drive or ".." in windows.parts:
        raise InputError(f"{archive}: unsafe archive, '{member.name}' leads out of the folder; nothing was kept")
    if not (member.isfile() or member.isdir()):
        raise InputError(f"{archive}: unsafe archive, '{member.name}' is a link or a device; nothing was kept")
