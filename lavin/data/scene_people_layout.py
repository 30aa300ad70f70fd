"""Composition of scenes with people: who stands where in which pose and clothes, and what stands around them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lavin.data import scene_layout as layouts
from lavin.data import scene_solids as solids
from lavin.data.scene_appearance import COLOURS
from lavin.data.scene_layout import FPS, PEOPLE, SLOTS, Layout, light_axes, pick
from lavin.data.scene_people import ACTIONS, PARTS, Person, draw_pose, dress, part_radii, pose_person, turn
from lavin.data.scene_solids import KINDS

ROOM_M = 0.35
"""Free space in front of the camera: what would stand in it is left out of the scene."""


@dataclass
class Shot:
    """What the camera is to show."""

    tall: np.ndarray
    """(m,) heights of people in metres."""
    close: bool
    """Whether it cuts its one person off."""
    half_view: float
    """Radians from the middle to the border of the picture's shorter side."""
    distance: float
    """Metres from the camera to what it looks at."""
    indoors: bool
    azimuth: float
    """Radians; where the camera stands, seen from the people."""

    @property
    def width(self) -> float:
        """Of the picture's shorter side at the people, metres."""
        return 2 * self.distance * np.tan(self.half_view)


def _draw_shot(rng: np.random.Generator) -> Shot:
    """One to three people of whom the tallest fills 40 to 85 % of the picture's height; one in eight is a close-up."""
    indoors, half_view = rng.random() < 0.5, np.radians(rng.uniform(18, 28))
    tall = rng.uniform(1.5, 1.92, pick(rng, (1, 1, 2, 2, PEOPLE)))
    close = len(tall) == 1 and rng.random() < 0.3
    share = np.exp(rng.uniform(np.log(0.55), np.log(0.85))) * (1, 0.85, 0.75)[len(tall) - 1]
    share *= rng.uniform(1.6, 2.3) if close else 1
    distance = tall.max() / share / (2 * np.tan(half_view))
    azimuth = np.radians(rng.uniform(15, 75) if indoors else rng.uniform(0, 360))
    return Shot(tall, close, half_view, distance, indoors, azimuth)


def _draw_bodies(rng: np.random.Generator, time: np.ndarray, tall: np.ndarray) -> tuple[list[Person], np.ndarray]:
    """People in their own frames, and the speeds (m,) at which they walk, m/s."""
    actions = [list(ACTIONS)[which] for which in pick(rng, range(len(ACTIONS)), len(tall))]
    poses = [draw_pose(rng, time, action) for action in actions]
    girth, long_hair = rng.uniform(0.9, 1.15, len(tall)), rng.random(len(tall)) < 0.4
    bodies = [pose_person(*drawn) for drawn in zip(poses, tall, girth, long_hair, strict=True)]
    return bodies, rng.uniform(0.6, 1.4, len(tall)) * [action == "walk" for action in actions]


def _footprint(person: Person) -> float:
    """Radius in metres of a circle around the pelvis that the first pose stays above."""
    return float((np.hypot(*person.centre[0][:, [0, 2]].T) + part_radii(person.kind, person.size)).max())


@dataclass
class Props:
    """Objects around the people; rows as in Layout."""

    kind: np.ndarray
    colour: np.ndarray
    size: np.ndarray
    upright: np.ndarray
    """(n, 3, 3)."""

    @property
    def bounding(self) -> np.ndarray:
        return np.array([solids.bounding_radius(k, s) for k, s in zip(self.kind, self.size, strict=True)])

    @property
    def height(self) -> np.ndarray:
        """(n,) of the centres of objects that stand on the ground."""
        each = zip(self.kind, self.size, self.upright, strict=True)
        return np.array([solids.reach(kind, size, -turned[1]) for kind, size, turned in each])

    def some(self, which: np.ndarray) -> Props:
        return Props(self.kind[which], self.colour[which], self.size[which], self.upright[which])


def _draw_props(rng: np.random.Generator, shot: Shot) -> Props:
    kind, colour = (layouts.pools(rng, SLOTS, len(names)) for names in (KINDS, COLOURS))
    radius = min(shot.width, 3) * np.exp(rng.uniform(-2.5, -1.75, SLOTS))
    upright = np.stack([layouts.orientation(rng, k) for k in kind])
    props = Props(kind, colour, layouts.sizes(rng, kind, radius), upright)
    return props.some(np.arange(rng.integers(0 if len(shot.tall) > 1 else 1, SLOTS)))


def _walk(
    time: np.ndarray, place: np.ndarray, yaw: float, veer: float, speed: float, room: float
) -> tuple[np.ndarray, np.ndarray]:
    """Heading (p,) and way (p, 3) of somebody who goes where they look, slower where there is no room for it.

    Args:
        time: (p,) seconds.
        place: (2,) x and z at the start.
        yaw, veer: heading at the start and its change, radians and radians per second.
        speed: metres per second.
        room: metres.
    """
    heading = yaw + veer * time
    paces = np.diff(time) * min(speed, room / max(time[-1], 1e-9))
    steps = np.stack([np.sin(heading[:-1]), np.zeros_like(paces), np.cos(heading[:-1])], -1) * paces[:, None]
    way = np.array([place[0], 0, place[1]]) + np.concatenate([np.zeros((1, 3)), steps.cumsum(0)])
    return heading, way


def _into_world(person: Person, yaw: np.ndarray, place: np.ndarray) -> Person:
    """From the body's frame to the world's: turned by yaw (p,) radians, moved by place (p, 3) metres."""
    rotation = turn(1, yaw)
    back = rotation.swapaxes(1, 2)
    return replace(
        person,
        rotation=rotation[:, None] @ person.rotation,
        centre=person.centre @ back + place[:, None],
        joints=person.joints @ back + place[:, None],
        pelvis=(person.pelvis[:, None] @ back)[:, 0] + place,
    )


def _room(places: np.ndarray, bounding: np.ndarray, walls: np.ndarray) -> np.ndarray:
    """How far each circle (n,) can move without meeting another that does so too, or a wall."""
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1) - bounding[:, None] - bounding
    np.fill_diagonal(apart, np.inf)
    return np.minimum(0.48 * apart.min(1), (places + walls - bounding[:, None]).min(1)).clip(0, 1.5)


def draw_people_layout(rng: np.random.Generator, size: tuple[int, int], poses: int = 1, fps: float = FPS) -> Layout:
    """Compose a scene of one to ``PEOPLE`` people, most of them whole, and up to four objects around them."""
    time = np.arange(poses) / fps
    shot = _draw_shot(rng)
    bodies, speed = _draw_bodies(rng, time, shot.tall)
    props = _draw_props(rng, shot)
    bounding = np.concatenate([[_footprint(body) for body in bodies], props.bounding])
    places, shrink = layouts.place(rng, bounding, 0.42 * shot.width)
    number = len(bodies)
    facing = rng.random(number) < 0.65
    yaw = np.where(facing, shot.azimuth + rng.uniform(-0.9, 0.9, number), 2 * np.pi * rng.random(number))
    veer = np.radians(rng.uniform(-25, 25, number))
    dressed = [dress(rng) for _ in bodies]

    kept = np.flatnonzero(shrink[:number] > 0.7)  # people do not shrink: where it is too crowded, one goes
    middle = shot.tall[kept].mean() * rng.uniform(*(0.62, 0.8) if shot.close else (0.42, 0.52))
    aim = np.insert(places[kept].mean(0), 1, middle) + 0.06 * shot.width * rng.standard_normal(3)
    eye, look = layouts.orbit(rng, time, shot.azimuth, np.radians(rng.uniform(2, 26)), shot.distance, aim)
    props.size = props.size * shrink[number:, None]
    centre = np.stack([places[number:, 0], props.height, places[number:, 1]], -1)
    clear = np.linalg.norm(centre - eye[0], axis=1) > props.bounding + ROOM_M + 0.1 * shot.distance
    props, centre = props.some(clear), centre[clear]

    circles = np.concatenate([bounding[kept], props.bounding])
    places = np.concatenate([places[kept], centre[:, [0, 2]]])
    walls = (circles[:, None] - places).max(0) + shot.width * rng.uniform(0.03, 0.5, 2)
    walls = walls if shot.indoors else np.full(2, np.inf)
    room = _room(places, circles, walls)
    people = [
        _into_world(bodies[who], *_walk(time, places[i], yaw[who], veer[who], speed[who], room[i]))
        for i, who in enumerate(kept)
    ]
    centres, turns = layouts.move(rng, time, centre, room[len(kept) :], shot.width)

    painted = layouts.paint(rng, props.colour, props.size.max(1), shot.width)
    parts = np.ones((10, PEOPLE * len(PARTS)))
    for i, who in enumerate(kept):
        parts[:, i * len(PARTS) : (i + 1) * len(PARTS)] = dressed[who][0]
    sun = np.radians(rng.uniform(10, 80)) if shot.indoors else shot.azimuth + np.radians(rng.uniform(-110, 110))
    horizon = layouts.HORIZON + rng.uniform(-0.08, 0.08, 3)
    overhead = layouts.OVERHEAD + rng.uniform(-0.1, 0.1, 3)
    return Layout(
        kind=props.kind,
        colour=props.colour,
        size=props.size,
        centre=centres,
        rotation=turns @ props.upright,
        camera_position=eye,
        camera_rotation=look,
        focal=min(size) / 2 / np.tan(shot.half_view),
        walls=walls,
        light=light_axes(sun, np.radians(rng.uniform(35, 70))),
        surfaces=np.concatenate([painted[:, :SLOTS], parts, painted[:, SLOTS:]], 1),
        brightness=rng.uniform((0.48, 0.5), (0.62, 0.68)),
        sky=np.concatenate([horizon, overhead]),
        people=people,
        clothes=[dressed[who][1] for who in kept],
    )
