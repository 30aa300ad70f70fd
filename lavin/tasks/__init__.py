"""Tasks: what a label looks like as an image, and back. Importing this fills the registry."""

from lavin.tasks import captions, detection, generation, geometry, panoptic, people, regions, restoration, video
from lavin.tasks.base import ALIASES, REGISTRY, Definition, Draw, HeldOut, Task, get_task, register

__all__ = [
    "ALIASES",
    "REGISTRY",
    "Definition",
    "Draw",
    "HeldOut",
    "Task",
    "captions",
    "detection",
    "generation",
    "geometry",
    "get_task",
    "panoptic",
    "people",
    "regions",
    "register",
    "restoration",
    "video",
]
