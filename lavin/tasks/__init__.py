"""Tasks: what a label looks like as an image, and back. Importing this fills the registry."""

from lavin.tasks import geometry, regions, restoration
from lavin.tasks.base import ALIASES, REGISTRY, Definition, HeldOut, Task, get_task, register

__all__ = [
    "ALIASES",
    "REGISTRY",
    "Definition",
    "HeldOut",
    "Task",
    "geometry",
    "get_task",
    "regions",
    "register",
    "restoration",
]
