"""Speed and looks of the procedural scenes.

    python eval/scenes.py --size 128 --count 256                      # prints scenes per second
    python eval/scenes.py --size 128 --frames 8 --count 8 --out sheet.png

The sheet shows, for each scene (and every second frame of a clip): picture, disparity, normals, instances, and for
clips flow.
"""

from __future__ import annotations

import argparse
import time

import torch
from PIL import Image
from torch import Tensor

from lavin.data.sample import Sample
from lavin.data.scenes import Scenes


def disparity_picture(depth: Tensor) -> Tensor:
    """Near is bright, sky is black: (height, width) metres -> (height, width, 3) in [0, 1]."""
    disparity = (1 / depth).nan_to_num(0)
    return (disparity / disparity.max()).unsqueeze(-1).expand(-1, -1, 3)


def flow_picture(flow: Tensor) -> Tensor:
    """Red grows to the right, green downwards, grey is still: (2, height, width) pixels -> (height, width, 3)."""
    scaled = flow.nan_to_num(0) / flow.nan_to_num(0).abs().max().clamp_min(1e-6)
    return torch.cat([scaled, -scaled.mean(0, keepdim=True)]).permute(1, 2, 0) / 2 + 0.5


def panels(sample: Sample, frame: int) -> Tensor:
    """Labels of a frame side by side: (height, panels * width, 3) in [0, 1]."""
    colours = torch.rand(256, 3, generator=torch.Generator().manual_seed(1))
    colours[0] = 0
    parts = [
        sample.clip[frame] / 255,
        disparity_picture(sample.depth[frame]),
        sample.normals[:, frame].permute(1, 2, 0) / 2 + 0.5,
        colours[sample.panoptic[frame].long()],
    ]
    if sample.flow is not None:
        parts.append(flow_picture(sample.flow[:, frame]))
    return torch.cat(parts, dim=1)


def contact_sheet(samples: list[Sample], columns: int) -> Image.Image:
    """One cell per frame shown, filled row by row."""
    cells = [panels(sample, frame) for sample in samples for frame in range(0, sample.size[0], 2)]
    blank = torch.zeros_like(cells[0])
    cells += [blank] * (-len(cells) % columns)
    rows = [torch.cat(cells[start : start + columns], dim=1) for start in range(0, len(cells), columns)]
    return Image.fromarray((torch.cat(rows).clamp(0, 1) * 255).byte().numpy())


def benchmark(scenes: Scenes, count: int, batch: int) -> None:
    """Print scenes per second of wall time and the processor time of one, all labels included."""
    scenes.samples(range(batch))  # warm the allocator and the textures
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, count, batch):
        scenes.samples(range(start, min(start + batch, count)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    height, width = scenes.size
    print(
        f"{count / wall:.1f} scenes/s of {scenes.frames} x {height} x {width}, batch {batch}, "
        f"{torch.get_num_threads()} thread(s), {1e3 * cpu / count:.1f} ms of processor time each"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--count", type=int, default=256, help="scenes in the benchmark")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=None, help="torch threads; its own choice by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default=None, help="PNG of a contact sheet")
    parser.add_argument("--shown", type=int, default=32, help="scenes on the sheet")
    parser.add_argument("--columns", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    scenes = Scenes(arguments.split, arguments.size, arguments.frames, arguments.seed, arguments.device)
    benchmark(scenes, arguments.count, arguments.batch)
    if arguments.out:
        shown = Scenes(arguments.split, arguments.size, arguments.frames, arguments.seed)
        contact_sheet(shown.samples(range(arguments.shown)), arguments.columns).save(arguments.out)
        print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
