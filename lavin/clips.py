"""Clips on disk: mp4 in and out, by PyAV; see ``lavin.io`` for pictures. Torch is not imported."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from lavin.errors import InputError
from lavin.io import MAX_PIXELS, SUFFIXES, check_free, files_by_suffix, read_image, write_bytes

CLIP_SUFFIXES = (".mp4",)
VIDEO_EXTRA = "clips are read and written with PyAV, which is not installed: pip install 'lavin[video]'"
FINEST_RATE = 1001
"""Largest denominator of a frame rate: 30000 / 1001 is that of television."""


@dataclass(frozen=True, eq=False)
class Clip:
    """Moving pictures as they came."""

    frames: np.ndarray
    """uint8 (frames, height, width, 3), RGB."""
    fps: float
    """Frames per second."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as of a PIL picture."""
        return self.frames.shape[2], self.frames.shape[1]

    def pictures(self) -> list[Image.Image]:
        return [Image.fromarray(frame) for frame in self.frames]


def is_clip(path: Path) -> bool:
    """Whether a file's name says that it is a clip."""
    return path.suffix.lower() in CLIP_SUFFIXES


def media_files(folder: Path) -> list[Path]:
    """Pictures and clips of a folder; see ``lavin.io.image_files``."""
    return files_by_suffix(folder, (*SUFFIXES, *CLIP_SUFFIXES))


def read_media(path: str | Path) -> Image.Image | Clip:
    """Read a clip or a picture, whichever the file's name says.

    Raises:
        InputError: see ``read_clip`` and ``lavin.io.read_image``.
    """
    return read_clip(path) if is_clip(Path(path)) else read_image(path)


def read_clip(path: str | Path) -> Clip:
    """Read all frames of an mp4, upright (the file's rotation applied).

    Raises:
        InputError: no such file, no clip, damaged or cut short, more than ``lavin.io.MAX_PIXELS`` in all frames
            together, or PyAV is missing.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; an mp4 file is needed")
    if not path.exists():
        raise InputError(f"{path}: no such file")
    av = import_av(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: has no moving pictures, only sound or nothing; give another clip")
            stream = container.streams.video[0]
            frames = decode(container, stream, path)
            rate = stream.average_rate or stream.guessed_rate or 25
    except av.error.FFmpegError as error:
        raise InputError(f"{path}: damaged, cut short or no mp4 ({error.strerror})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return Clip(np.stack(frames), float(rate))


def decode(container, stream, path: Path) -> list[np.ndarray]:
    """All frames of a stream as uint8 (height, width, 3)."""
    frames: list[np.ndarray] = []
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise InputError(f"{path}: damaged or cut short after {len(frames)} frames")
        for frame in packet.decode():
            if (len(frames) + 1) * frame.width * frame.height > MAX_PIXELS:
                raise InputError(
                    f"{path}: more than {len(frames)} frames of {frame.width}x{frame.height} are too large; at most "
                    f"{MAX_PIXELS // 10**6} million pixels are read, cut it shorter or make it smaller"
                )
            upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            frames.append(np.ascontiguousarray(upright))
    if not frames:
        raise InputError(f"{path}: has no frames")
    return frames


def write_clip(path: str | Path, frames: Sequence[Image.Image], fps: float, force: bool = False) -> Path:
    """Write a clip as mp4 without loss: H.264 in RGB, so that a label's colours come back as they were drawn.

    Args:
        path: name that ends in .mp4.
        frames: RGB pictures of one size.
        fps: frames per second.
        force: overwrite.

    Raises:
        InputError: PyAV is missing, the name is no .mp4, or the file exists and ``force`` is off.
    """
    check_mp4(path)
    check_free(path, force)
    av = import_av(path)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(FINEST_RATE)
        stream = container.add_stream("libx264rgb", rate=rate, options={"crf": "0"})
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return write_bytes(path, buffer.getvalue(), force)


def check_mp4(path: str | Path) -> None:
    """Refuse a name that does not end in .mp4: nothing else is written, whatever the name says."""
    if not is_clip(Path(path)):
        raise InputError(f"output {path}: clips are written as MP4; give a name that ends in .mp4")


def import_av(path: str | Path):
    """PyAV, which only clips need."""
    try:
        import av
    except ImportError as error:
        raise InputError(f"{path}: {VIDEO_EXTRA}") from error
    return av
