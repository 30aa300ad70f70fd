"""Procedural 3-D scenes: a source of pictures and clips whose labels are exact because everything is computed.

A scene is two to five solids on a ground, outdoors or in the corner of a room, under one light; with ``people=True``
one to three articulated people and up to four solids. It is a function of (split, seed, index) and of nothing else.
``Scenes`` draws layouts in numpy, one by one, and casts the rays of a whole batch of scenes in torch.

    >>> scenes = Scenes("train", size=64)
    >>> sample = scenes[0]
    >>> sample.clip.shape
    torch.Size([1, 64, 64, 3])
    >>> clip = Scenes("train", size=64, frames=9, people=True)[0]
    >>> clip.instances[0].class_name, clip.instances[0].keypoints.shape
    ('person', torch.Size([9, 17, 3]))

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

from lavin.data import scene_labels as labels
from lavin.data.sample import Instance, Sample, Vocabulary
from lavin.data.scene_appearance import COLOURS, TEXTURES
from lavin.data.scene_expressions import PERSON, Naming, Seen
from lavin.data.scene_flow import carry, flow
from lavin.data.scene_geometry import SKY, pixel_centres
from lavin.data.scene_labels import Profiles
from lavin.data.scene_layout import FPS, PEOPLE, SLOTS, Layout, draw_layout
from lavin.data.scene_people_layout import draw_people_layout
from lavin.data.scene_rendering import build, owners, render
from lavin.data.scene_solids import KINDS

VOCABULARY = Vocabulary(things=KINDS, stuff=("ground", "wall", "sky"), colours=tuple(COLOURS))
PEOPLE_VOCABULARY = Vocabulary(things=(*KINDS, PERSON), stuff=VOCABULARY.stuff, colours=VOCABULARY.colours)

SPLITS = {"train": 0x7A41, "validation": 0x5EED}
"""First word of each scene's random key: no seed can bring two splits together."""
PEOPLE_SPLITS = {"train": 0x7A42, "validation": 0x5EEE}
"""The same for scenes with people."""
LEAST_VISIBLE = 0.004
"""Share of the picture an object must show in some frame to count as an instance."""
RAYS_AT_ONCE = 1 << 17
"""Primary rays in one pass; enough to hide the cost of a call, few enough for the cache."""
PATTERNS = {
    TEXTURES.index("checks"): "checked",
    TEXTURES.index("stripes"): "striped",
    TEXTURES.index("speckle"): "speckled",
}


@dataclass
class Thing:
    """An object or a person of a layout, visible or not."""

    slot: int
    class_id: int
    colour: str | None
    centre: np.ndarray
    """(3,) metres, in the world, at the start."""
    distance: float
    """Metres from the camera at the start."""
    pattern: str | None = None
    shirt: str | None = None
    trousers: str | None = None


def things_of(layout: Layout) -> list[Thing]:
    """Objects in slots 0 ..., people in slots ``SLOTS`` ..."""
    colours, textures = list(COLOURS), layout.surfaces[9]
    eye = layout.camera_position[0]
    distance = np.linalg.norm(layout.centre[0] - eye, axis=-1)
    objects = [
        Thing(slot, int(kind), colours[colour], layout.centre[0, slot], away, PATTERNS.get(int(textures[slot])))
        for slot, (kind, colour, away) in enumerate(zip(layout.kind, layout.colour, distance.tolist(), strict=True))
    ]
    people = [
        Thing(slot, len(KINDS), None, who.pelvis[0], float(np.linalg.norm(who.pelvis[0] - eye)), **clothes)
        for slot, (who, clothes) in enumerate(zip(layout.people, layout.clothes, strict=True), SLOTS)
    ]
    return objects + people


class Scenes:
    """Source of procedural scenes, one Sample per index.

    Every pixel has a class in ``semantic``, and every pixel of a thing its instance in ``panoptic``. Without people,
    things that show less than ``LEAST_VISIBLE`` of the picture are no instances, and 0 in ``panoptic``; with people
    they are instances marked as crowd, which nobody is to find, so that 0 in ``panoptic`` is stuff and nothing else.

    Args:
        split: "train" or "validation"; their scenes differ whatever the seeds.
        size: side of the square picture in pixels, or (height, width).
        frames: 1 for pictures; more for clips with moving objects and camera, and flow. The ST-VAE takes 1 + 4k.
        seed: another seed is another endless series of scenes.
        device: where the rays are cast and the labels stay.
        people: scenes with people; their vocabulary has the class "person" too.
        fps: frames per second of clips: the more, the less moves from one to the next. Of several, scenes take theirs
            in turn.

    Raises:
        ValueError: an unknown split, less than one frame, or no rate above 0.
    """

    vocabulary = VOCABULARY

    def __init__(
        self,
        split: str = "train",
        size: int | tuple[int, int] = 64,
        frames: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
        people: bool = False,
        fps: float | Sequence[float] = FPS,
    ):
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; scenes have {', '.join(SPLITS)}")
        if frames < 1:
            raise ValueError(f"frames is {frames}; a scene has at least 1")
        self.rates = tuple(map(float, fps)) if isinstance(fps, Sequence) else (float(fps),)
        if not self.rates or min(self.rates) <= 0:
            raise ValueError(f"fps is {fps}; it must be above 0")
        self.split, self.frames, self.seed, self.device = split, frames, seed, torch.device(device)
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.people = people
        if people:
            self.vocabulary = PEOPLE_VOCABULARY

    def layout(self, index: int) -> Layout:
        """The scene before rendering; for clips with one pose more than frames, where the last flow points to."""
        first, draw = (PEOPLE_SPLITS, draw_people_layout) if self.people else (SPLITS, draw_layout)
        rng = np.random.default_rng((first[self.split], self.seed, index))
        return draw(rng, self.size, self.frames + (self.frames > 1), self.fps(index))

    def fps(self, index: int) -> float:
        """Frames per second of one scene's clip."""
        return self.rates[index % len(self.rates)]

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
        aims = labels.aim(layouts, self.frames, self.size, self.device) if self.people else None
        rays, hits, picture, met = render(world, look, self.size, aims and aims.rays)
        shape = (len(layouts), self.frames, *self.size)
        sky = hits.surface == world.slots + SKY
        fields = {
            "clip": picture.view(*shape, 3),
            "depth": torch.where(sky, torch.nan, hits.t).view(shape),
            "normals": labels.camera_normals(world, rays, hits).view(3, *shape).transpose(0, 1),
        }
        if self.frames > 1:
            x, y, _ = pixel_centres(world.views, self.size, self.device)
            maps = carry(layouts, self.frames, self.device)
            fields["flow"] = flow(world, rays, hits, maps, x, y, self.size).view(2, *shape).transpose(0, 1)
        owner, joints = hits.surface, [None] * len(layouts)
        if self.people:
            owner = torch.from_numpy(owners(world.slots)).to(self.device)[owner]
            joints = labels.keypoints(world, aims, met, *shape[:2])
        profiles = labels.count_profiles(owner, self._things, *shape[:2], self.size)
        owner = owner.to(torch.uint8).view(shape)
        return [
            self._sample(
                int(index),
                layouts[i],
                {name: value[i].clone(memory_format=torch.contiguous_format) for name, value in fields.items()},
                owner[i],
                Profiles(profiles.columns[i], profiles.rows[i]),
                joints[i],
            )
            for i, index in enumerate(indices)
        ]

    @property
    def _things(self) -> int:
        """Most things a scene can have; backgrounds are numbered from here."""
        return SLOTS + PEOPLE * self.people

    def _sample(
        self,
        index: int,
        layout: Layout,
        fields: dict[str, Tensor],
        owner: Tensor,
        profiles: Profiles,
        joints: np.ndarray | None,
    ) -> Sample:
        """One scene's record; ``owner`` uint8 (frames, height, width) says what each pixel shows, profiles and joints
        are this scene's alone."""
        height, width = self.size
        instances = self._instances(layout, owner, profiles, joints)
        number = torch.zeros(self._things + 4, dtype=torch.int32)
        number[[one.track_id for one in instances]] = torch.arange(1, len(instances) + 1, dtype=torch.int32)
        stuff = len(self.vocabulary.things) + np.array([0, 1, 1, 2])  # ground, two walls, sky
        classes = np.concatenate([np.zeros(SLOTS), np.full(self._things - SLOTS, len(KINDS)), stuff]).astype(np.uint8)
        classes[: len(layout.kind)] = layout.kind
        ids = owner.long()
        pose = np.zeros((self.frames, 4, 4))
        pose[:, :3, :3] = layout.camera_rotation[: self.frames]
        pose[:, :3, 3] = layout.camera_position[: self.frames]
        pose[:, 3, 3] = 1
        intrinsics = torch.tensor([[layout.focal, 0, width / 2], [0, layout.focal, height / 2], [0, 0, 1]])
        kind = "people/" if self.people else ""
        return Sample(
            id=f"scenes/{kind}{self.split}/{self.seed}/{index}",
            dataset="scenes",
            split=self.split,
            fps=self.fps(index) if self.frames > 1 else None,
            instances=instances,
            semantic=torch.from_numpy(classes).to(ids.device)[ids],
            panoptic=number.to(ids.device)[ids],
            K=intrinsics,
            pose=torch.from_numpy(pose).float(),
            **fields,
        )

    def _instances(
        self, layout: Layout, owner: Tensor, profiles: Profiles, joints: np.ndarray | None
    ) -> list[Instance]:
        """Objects that show enough of themselves; with people all that show at all."""
        height, width = self.size
        area = profiles.columns.sum(-1)  # (frames, things)
        things, least = things_of(layout), LEAST_VISIBLE * height * width
        seen = [self._seen(thing, profiles.columns[0, thing.slot]) for thing in things if area[0, thing.slot]]
        naming = Naming(seen, least)
        boxes = torch.from_numpy(labels.boxes(profiles.columns, profiles.rows))
        instances = []
        for thing in things:
            most = area[:, thing.slot].max()
            if most < (1 if self.people else least):
                continue
            instance = Instance(
                class_id=thing.class_id,
                class_name=self.vocabulary.things[thing.class_id],
                mask=owner == thing.slot,
                box=boxes[:, thing.slot].clone(),
                track_id=thing.slot,
                crowd=bool(most < least),
                colour=thing.colour,
                distance_m=thing.distance,
                expressions=naming.of(thing.slot),
            )
            if thing.class_id == len(KINDS):
                found = torch.from_numpy(joints[:, thing.slot - SLOTS].copy())
                instance.keypoints = found if self.frames > 1 else found[0]
                instance.clothes = {"shirt": thing.shirt, "trousers": thing.trousers}
            instances.append(instance)
        return instances

    def _seen(self, thing: Thing, columns: np.ndarray) -> Seen:
        """A thing of which each of the first frame's columns (width,) shows that many pixels."""
        width, area = len(columns), columns.sum()
        there = np.flatnonzero(columns)
        return Seen(
            slot=thing.slot,
            name=self.vocabulary.things[thing.class_id],
            colour=thing.colour,
            area=float(area),
            x=float(columns @ ((np.arange(width) + 0.5) / width) / area),
            distance=thing.distance,
            span=(there[0] / width, (there[-1] + 1) / width),
            centre=tuple(thing.centre.tolist()),
            pattern=thing.pattern,
            shirt=thing.shirt,
            trousers=thing.trousers,
        )
