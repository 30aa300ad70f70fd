"""Procedural 3-D scenes: a source of pictures and clips whose labels are exact because everything is computed.

A scene is two to five solids on a ground, outdoors or in the corner of a room, under one light. It is a function of
(split, seed, index) and of nothing else. ``Scenes`` draws layouts in numpy, one by one, and casts the rays of a whole
batch of scenes in torch.

    >>> scenes = Scenes("train", size=64)
    >>> sample = scenes[0]
    >>> sample.clip.shape
    torch.Size([1, 64, 64, 3])

Conventions: ``pose`` is camera-to-world for a camera with x right, y down, z forward (K's), in a world with y up;
image coordinates start at the picture's top left corner, so pixel (row, column) has its centre at
(column + 0.5, row + 0.5). Sky has no depth (NaN) and no normal (zeros), but flow: that of a point at infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lavin.data import scene_geometry as geometry
from lavin.data.sample import Instance, Sample, Vocabulary
from lavin.data.scene_appearance import COLOURS, Look, shade
from lavin.data.scene_geometry import KINDS, SKY, Hits, Rays, World, dot
from lavin.data.scene_layout import FPS, SLOTS, Layout, draw_layout

VOCABULARY = Vocabulary(things=KINDS, stuff=("ground", "wall", "sky"), colours=tuple(COLOURS))

SPLITS = {"train": 0x7A41, "validation": 0x5EED}
"""First word of each scene's random key: no seed can bring two splits together."""
LEAST_VISIBLE = 0.004
"""Share of the picture an object must show in some frame to count as an instance."""
RAYS_AT_ONCE = 1 << 17
"""Primary rays in one pass; enough to hide the cost of a call, few enough for the cache."""
CONTRAST = 0.07
"""Colour step between neighbours above which a pixel is supersampled."""


# ------------------------------------------------------------------------------------------------------------- packing


def _tables(layout: Layout, frames: int) -> tuple[np.ndarray, ...]:
    """The columns of World and Look that belong to one scene: float32 (rows, frames), kind (SLOTS, frames)."""
    number = len(layout.kind)
    kind = np.full((SLOTS, frames), -1)
    kind[:number] = layout.kind[:, None]
    solids = np.zeros((15, SLOTS, frames), np.float32)
    solids[:3, :number] = layout.centre[:frames].transpose(2, 1, 0)
    solids[3:12, :number] = layout.rotation[:frames].reshape(frames, number, 9).transpose(2, 1, 0)
    solids[12:, :number] = layout.size.T[:, :, None]
    radius = np.zeros((SLOTS, frames), np.float32)
    radius[:number] = [
        [1.001 * geometry.bounding_radius(k, s)] for k, s in zip(layout.kind, layout.size, strict=True)
    ]  # a little more, so that rounding culls nothing
    view = np.concatenate(
        [[layout.focal], layout.walls, layout.light.ravel(), layout.brightness, layout.sky], dtype=np.float32
    )
    camera = np.concatenate([layout.camera_rotation[:frames].reshape(frames, 9), layout.camera_position[:frames]], 1)
    views = np.concatenate([np.repeat(view[:, None], frames, 1), camera.T.astype(np.float32)])
    surfaces = np.repeat(layout.surfaces[:, :, None], frames, 2).astype(np.float32)
    return kind, solids, radius, views, surfaces


def build(layouts: Sequence[Layout], frames: int, device: torch.device) -> tuple[World, Look]:
    """Tables of all views, scene by scene, frame by frame."""
    tables = zip(*(_tables(layout, frames) for layout in layouts), strict=True)
    kind, solids, radius, views, surfaces = (
        torch.from_numpy(np.concatenate(parts, axis=-1)).to(device) for parts in tables
    )
    focal, walls, light, brightness, sky, rotation, position = views.split([1, 2, 9, 2, 6, 9, 3])
    world = World(focal[0], rotation, position, kind.flatten(), solids.flatten(1), radius, walls, light)
    return world, Look(surfaces.flatten(1), brightness, sky)


# ----------------------------------------------------------------------------------------------------------- rendering


def _rough(colour: Tensor, surface: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Indices of pixels that differ from a neighbour in surface or by more than CONTRAST in colour."""
    colour, surface = colour.view(3, *shape), surface.view(shape)
    rough = torch.zeros(shape, dtype=torch.bool, device=colour.device)
    for axis in (1, 2):
        length = shape[axis] - 1
        step = (colour.narrow(axis + 1, 1, length) - colour.narrow(axis + 1, 0, length)).abs_()
        differs = torch.maximum(torch.maximum(step[0], step[1]), step[2]) > CONTRAST
        differs |= surface.narrow(axis, 1, length) != surface.narrow(axis, 0, length)
        rough.narrow(axis, 1, length).logical_or_(differs)
        rough.narrow(axis, 0, length).logical_or_(differs)
    return rough.flatten().nonzero().squeeze(1)


def _cast(world: World, look: Look, rays: Rays) -> tuple[Hits, Tensor]:
    hits = geometry.trace(world, rays)
    return hits, shade(world, look, rays, hits, geometry.shadows(world, rays, hits))


def render(world: World, look: Look, size: tuple[int, int]) -> tuple[Rays, Hits, Tensor]:
    """Cast a ray through every pixel centre, then four more where the picture has an edge.

    Returns:
        Rays and hits at pixel centres (the labels' view of the scene), and the picture, uint8 (V, height, width, 3).
    """
    x, y, view = geometry.pixel_centres(world.views, size, world.focal.device)
    rays = geometry.camera_rays(world, x, y, view, size, size[0] * size[1])
    hits, colour = _cast(world, look, rays)
    rough = _rough(colour, hits.surface, (world.views, *size))
    if rough.numel():
        corners_x = x[rough] + torch.tensor([[-0.25], [0.25], [-0.25], [0.25]], device=x.device)
        corners_y = y[rough] + torch.tensor([[-0.25], [-0.25], [0.25], [0.25]], device=x.device)
        finer = geometry.camera_rays(world, corners_x.flatten(), corners_y.flatten(), view[rough].repeat(4), size, None)
        a, b, c, d = _cast(world, look, finer)[1].view(3, 4, -1).unbind(1)
        colour.index_copy_(1, rough, (a + b + c + d) / 4)
    picture = (colour * 255).round_().to(torch.uint8)
    return rays, hits, picture.view(3, world.views, *size).permute(1, 2, 3, 0).contiguous()


# -------------------------------------------------------------------------------------------------------------- labels


def _camera_normals(world: World, rays: Rays, hits: Hits) -> Tensor:
    """(3, M): x right, y up, z towards the viewer."""
    rotation = rays.spread(world.camera_rotation)
    right, down, forward = (dot(rotation[column::3], hits.normal) for column in (0, 1, 2))
    return torch.stack([right, -down, -forward])


def _carry(layouts: Sequence[Layout], frames: int, device: torch.device) -> Tensor:
    """Maps (12, (SLOTS + 4) * V) from a frame's ray to the next frame's camera: row-major matrix A and vector b so that
    a surface point at eye + X is seen at A X + b; sky, at infinity, has b = 0. Composed in float64: the difference
    of two poses is small."""
    maps = np.zeros((len(layouts), frames, SLOTS + 4, 3, 4))
    for scene, layout in enumerate(layouts):
        now, later = slice(0, frames), slice(1, frames + 1)
        to_camera = layout.camera_rotation[later].transpose(0, 2, 1)
        eye, next_eye = layout.camera_position[now], layout.camera_position[later]
        maps[scene, :, :, :, :3] = to_camera[:, None]
        maps[scene, :, SLOTS:, :, 3] = np.einsum("fij,fj->fi", to_camera, eye - next_eye)[:, None]
        turn = layout.rotation[later] @ layout.rotation[now].swapaxes(-1, -2)
        number = len(layout.kind)
        from_centre = np.einsum("fnij,fnj->fni", turn, eye[:, None] - layout.centre[now])
        there = from_centre + layout.centre[later] - next_eye[:, None]
        maps[scene, :, :number, :, :3] = to_camera[:, None] @ turn
        maps[scene, :, :number, :, 3] = np.einsum("fij,fnj->fni", to_camera, there)
        maps[scene, :, SLOTS + SKY, :, 3] = 0
    columns = maps.transpose(3, 4, 2, 0, 1)  # row, column, surface, scene, frame
    matrix, vector = columns[:, :3].reshape(9, -1), columns[:, 3].reshape(3, -1)
    return torch.from_numpy(np.concatenate([matrix, vector])).float().to(device)


def _flow(world: World, rays: Rays, hits: Hits, carry: Tensor, x: Tensor, y: Tensor, size: tuple[int, int]) -> Tensor:
    """(2, M) pixels to the next frame, NaN for what moves behind the camera."""
    moved = carry.index_select(1, hits.surface * world.views + rays.view)
    sky = hits.surface == world.slots + SKY
    offset = rays.direction * torch.where(sky, 1, hits.t)
    seen = torch.stack([dot(moved[i : i + 3], offset) + moved[9 + i // 3] for i in (0, 3, 6)])
    focal = rays.spread(world.focal)
    u = focal * seen[0] / seen[2] + size[1] / 2 - x
    v = focal * seen[1] / seen[2] + size[0] / 2 - y
    return torch.where(seen[2] > geometry.NEAR_M, torch.stack([u, v]), torch.nan)


@dataclass
class Profiles:
    """How many pixels of each object lie in each column and row: everything boxes and expressions need."""

    columns: np.ndarray
    """(scenes, frames, SLOTS, width)."""
    rows: np.ndarray
    """(scenes, frames, SLOTS, height)."""


def _profiles(surface: Tensor, scenes: int, frames: int, size: tuple[int, int]) -> Profiles:
    """Count from the surfaces (V * height * width,) at pixel centres."""
    height, width = size
    on_solid = (surface < SLOTS).nonzero().squeeze(1)
    view = on_solid.div(height * width, rounding_mode="floor")
    solid = view * SLOTS + surface.index_select(0, on_solid)
    row = on_solid.div(width, rounding_mode="floor") - view * height
    column = on_solid % width
    bins = scenes * frames * SLOTS
    columns = torch.bincount(solid * width + column, minlength=bins * width)
    rows = torch.bincount(solid * height + row, minlength=bins * height)
    shape = (scenes, frames, SLOTS, -1)
    return Profiles(columns.view(shape).cpu().numpy(), rows.view(shape).cpu().numpy())


def _extent(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last non-zero entry along the last axis."""
    there = counts > 0
    return there.argmax(-1), there.shape[-1] - there[..., ::-1].argmax(-1)


def _boxes(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(..., 4) float32 from profiles; NaN where nothing is visible."""
    (x0, x1), (y0, y1) = _extent(columns), _extent(rows)
    boxes = np.stack([x0, y0, x1, y1], -1).astype(np.float32)
    boxes[columns.sum(-1) == 0] = np.nan
    return boxes


# --------------------------------------------------------------------------------------------------------- expressions


@dataclass
class Seen:
    """An object with at least one visible pixel in the first frame, as far as expressions speak of it."""

    slot: int
    name: str
    colour: str
    area: float
    """Pixels."""
    x: float
    """Mean column of its pixels, as a share of the width."""
    distance: float
    """Metres from the camera to its centre."""


def _winner(group: Sequence[Seen], key: str, sign: float, margin: float, ratio: bool) -> Seen | None:
    """The one with the largest ``sign * key`` if the runner-up is clearly behind: by a factor or a difference."""
    first, second = sorted(group, key=lambda seen: -sign * getattr(seen, key))[:2]
    a, b = getattr(first, key), getattr(second, key)
    clear = max(a, b) >= margin * min(a, b) if ratio else abs(a - b) >= margin
    return first if clear else None


COMPARISONS = {
    "leftmost": ("x", -1, 0.07, False),
    "rightmost": ("x", 1, 0.07, False),
    "largest": ("area", 1, 1.3, True),
    "smallest": ("area", -1, 1.3, True),
    "nearest": ("distance", -1, 1.15, True),
    "farthest": ("distance", 1, 1.15, True),
}
"""Adjective: the quantity it compares, its sense, the margin, and whether the margin is a factor."""


def expressions(seen: Sequence[Seen]) -> dict[int, list[str]]:
    """Texts that refer to exactly one of the visible objects, by slot. Objects too small to be instances still
    count as visible: a text must not be ambiguous because of them."""
    texts: dict[int, list[str]] = {one.slot: [] for one in seen}
    both, colours = [(one.name, one.colour) for one in seen], [one.colour for one in seen]
    names = [one.name for one in seen]
    for one in seen:
        if both.count((one.name, one.colour)) == 1:
            texts[one.slot].append(f"the {one.colour} {one.name}")
        if colours.count(one.colour) == 1:
            texts[one.slot].append(f"the {one.colour} object")
        if names.count(one.name) == 1:
            texts[one.slot].append(f"the {one.name}")
    groups = {name: [one for one in seen if one.name == name] for name in dict.fromkeys(names)} | {"object": list(seen)}
    for name, group in groups.items():
        for adjective, rule in COMPARISONS.items() if len(group) > 1 else ():
            if winner := _winner(group, *rule):
                texts[winner.slot].append(f"the {adjective} {name}")
    return texts


# -------------------------------------------------------------------------------------------------------------- source


class Scenes:
    """Source of procedural scenes, one Sample per index.

    Args:
        split: "train" or "validation"; their scenes differ whatever the seeds.
        size: side of the square picture in pixels, or (height, width).
        frames: 1 for pictures; more for clips with moving objects and camera, and flow.
        seed: another seed is another endless series of scenes.
        device: where the rays are cast and the labels stay.
    """

    vocabulary = VOCABULARY

    def __init__(
        self,
        split: str = "train",
        size: int | tuple[int, int] = 64,
        frames: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; scenes have {', '.join(SPLITS)}")
        if frames < 1:
            raise ValueError(f"frames is {frames}; a scene has at least 1")
        self.split, self.frames, self.seed, self.device = split, frames, seed, torch.device(device)
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def layout(self, index: int) -> Layout:
        """The scene before rendering; for clips with one pose more than frames, where the last flow points to."""
        rng = np.random.default_rng((SPLITS[self.split], self.seed, index))
        return draw_layout(rng, self.size, self.frames + (self.frames > 1))

    def __getitem__(self, index: int) -> Sample:
        return self.samples([index])[0]

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        """Render scenes together; each is the same, to the bit, whatever its company."""
        at_once = max(1, RAYS_AT_ONCE // (self.frames * self.size[0] * self.size[1]))
        parts = [indices[start : start + at_once] for start in range(0, len(indices), at_once)]
        return [sample for part in parts for sample in self._samples(part)]

    def _samples(self, indices: Sequence[int]) -> list[Sample]:
        layouts = [self.layout(int(index)) for index in indices]
        world, look = build(layouts, self.frames, self.device)
        rays, hits, picture = render(world, look, self.size)
        shape = (len(layouts), self.frames, *self.size)
        sky = hits.surface == SLOTS + SKY
        fields = {
            "clip": picture.view(*shape, 3),
            "depth": torch.where(sky, torch.nan, hits.t).view(shape),
            "normals": _camera_normals(world, rays, hits).view(3, *shape).transpose(0, 1),
        }
        if self.frames > 1:
            x, y, _ = geometry.pixel_centres(world.views, self.size, self.device)
            flow = _flow(world, rays, hits, _carry(layouts, self.frames, self.device), x, y, self.size)
            fields["flow"] = flow.view(2, *shape).transpose(0, 1)
        profiles = _profiles(hits.surface, *shape[:2], self.size)
        surface = hits.surface.to(torch.uint8).view(shape)
        return [
            self._sample(
                int(index),
                layouts[i],
                {name: value[i].clone(memory_format=torch.contiguous_format) for name, value in fields.items()},
                surface[i],
                Profiles(profiles.columns[i], profiles.rows[i]),
            )
            for i, index in enumerate(indices)
        ]

    def _sample(
        self, index: int, layout: Layout, fields: dict[str, Tensor], surface: Tensor, profiles: Profiles
    ) -> Sample:
        """One scene's record; ``surface`` uint8 (frames, height, width), profiles of this scene alone."""
        height, width = self.size
        instances, slots = self._instances(layout, surface, profiles)
        number = torch.zeros(SLOTS + 4, dtype=torch.int32)
        number[slots] = torch.arange(1, len(slots) + 1, dtype=torch.int32)
        stuff = len(KINDS) + np.array([0, 1, 1, 2])  # ground, two walls, sky
        unused = np.zeros(SLOTS - len(layout.kind))
        classes = torch.from_numpy(np.concatenate([layout.kind, unused, stuff]).astype(np.uint8))
        ids = surface.long()
        pose = np.zeros((self.frames, 4, 4))
        pose[:, :3, :3] = layout.camera_rotation[: self.frames]
        pose[:, :3, 3] = layout.camera_position[: self.frames]
        pose[:, 3, 3] = 1
        intrinsics = torch.tensor([[layout.focal, 0, width / 2], [0, layout.focal, height / 2], [0, 0, 1]])
        return Sample(
            id=f"scenes/{self.split}/{self.seed}/{index}",
            dataset="scenes",
            split=self.split,
            fps=FPS if self.frames > 1 else None,
            instances=instances,
            semantic=classes.to(ids.device)[ids],
            panoptic=number.to(ids.device)[ids],
            K=intrinsics,
            pose=torch.from_numpy(pose).float(),
            **fields,
        )

    def _instances(self, layout: Layout, surface: Tensor, profiles: Profiles) -> tuple[list[Instance], list[int]]:
        """Objects that show enough of themselves, and their slots."""
        height, width = self.size
        number = len(layout.kind)
        area = profiles.columns.sum(-1)  # (frames, SLOTS)
        distance = np.linalg.norm(layout.centre[0] - layout.camera_position[0], axis=-1)
        centres = (np.arange(width) + 0.5) / width
        names, colours = [KINDS[k] for k in layout.kind], [VOCABULARY.colours[c] for c in layout.colour]
        seen = [
            Seen(
                slot,
                names[slot],
                colours[slot],
                float(area[0, slot]),
                float(profiles.columns[0, slot] @ centres / area[0, slot]),
                float(distance[slot]),
            )
            for slot in range(number)
            if area[0, slot]
        ]
        texts = expressions(seen)
        boxes = torch.from_numpy(_boxes(profiles.columns, profiles.rows))
        slots = [slot for slot in range(number) if area[:, slot].max() >= LEAST_VISIBLE * height * width]
        instances = [
            Instance(
                class_id=int(layout.kind[slot]),
                class_name=names[slot],
                mask=surface == slot,
                box=boxes[:, slot].clone(),
                track_id=slot,
                colour=colours[slot],
                distance_m=float(distance[slot]),
                expressions=texts.get(slot, []),
            )
            for slot in slots
        ]
        return instances, slots
