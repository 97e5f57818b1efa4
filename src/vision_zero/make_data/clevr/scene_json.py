"""JSON of scenes in CLEVR's format, and of the changes between two of them.

Besides CLEVR's image_filename, image_index, split, objects, directions and relationships, a scene has `camera` and
`lamps`, from which it can be drawn again, and `visible_pixels` of each object.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vision_zero.make_data.clevr.camera import Camera, dot, minus
from vision_zero.make_data.clevr.scenes import Scene, SceneObject

RELATION_EPSILON = 0.2
"""Least distance of two related objects (CLEVR). A larger margin of the scene relates every two objects."""

GROUND_DIRECTIONS = ("right", "behind", "front", "left")


def scene_json(
    scene: Scene, size: tuple[int, int], image_filename: str, image_index: int, visible_pixels: Sequence[int]
) -> dict[str, Any]:
    """CLEVR's description of one image of `size` (width, height)."""
    return {
        "split": "",
        "image_index": image_index,
        "image_filename": image_filename,
        "objects": [object_json(one, scene.camera, size) for one in scene.objects],
        "directions": {name: list(vector) for name, vector in scene.camera.directions().items()},
        "relationships": relationships(scene),
        "camera": list(scene.camera.position),
        "lamps": {name: list(position) for name, position in asdict(scene.lamps).items()},
        "visible_pixels": list(visible_pixels),
    }


def object_json(one: SceneObject, camera: Camera, size: tuple[int, int]) -> dict[str, Any]:
    """`pixel_coords` are the column and the row of the object's centre, and its depth."""
    x, y, depth = camera.project(one.centre, size)
    return {
        "shape": one.shape,
        "size": one.size,
        "material": one.material,
        "color": one.colour,
        "3d_coords": list(one.centre),
        "rotation": one.rotation,
        "pixel_coords": [round(x), round(y), depth],
    }


def relationships(scene: Scene) -> dict[str, list[list[int]]]:
    """Related objects by direction and object: `["left"][0]` are those left of object 0."""
    directions = scene.camera.directions()
    centres = [one.centre for one in scene.objects]
    return {
        name: [
            [
                other
                for other, there in enumerate(centres)
                if other != one and dot(minus(there, here), directions[name]) > RELATION_EPSILON
            ]
            for one, here in enumerate(centres)
        ]
        for name in GROUND_DIRECTIONS
    }


def comparison_json(original: Mapping[str, Any], modified: Mapping[str, Any]) -> dict[str, Any]:
    """NAME_comparison.json of the official sets: both scenes, and the objects that differ, by their position."""
    pairs = zip(original["objects"], modified["objects"], strict=True)
    return {
        "original_scene": dict(original),
        "modified_scene": dict(modified),
        "modification": {
            "replaced_objects": [
                {"index": index, "original": before, "replacement": after}
                for index, (before, after) in enumerate(pairs)
                if before != after
            ]
        },
    }
