"""Reads CLEVR's description of a scene back, to draw the scene again."""

from collections.abc import Mapping
from typing import Any

from vision_zero.make_data.clevr.scenes import Camera, Lamps, Scene, SceneObject


def scene_from_json(document: Mapping[str, Any]) -> Scene:
    """The scene that `scene_json` described, to draw it again. Raises KeyError for what it did not write."""
    objects = tuple(
        SceneObject(
            shape=one["shape"],
            size=one["size"],
            material=one["material"],
            colour=one["color"],
            x=one["3d_coords"][0],
            y=one["3d_coords"][1],
            rotation=one["rotation"],
        )
        for one in document["objects"]
    )
    lamps = Lamps(**{name: tuple(position) for name, position in document["lamps"].items()})
    return Scene(objects, Camera(tuple(document["camera"])), lamps)
