"""Checks CLEVR pairs by their JSON alone, with nothing of the code that made them.

    python -m tests.make_data.clevr.clevr_rules FOLDER [--pixels]

reads every scenes/*_comparison.json, prints what breaks a rule, and ends with 1 if anything does. `--pixels` also
counts the pixels of every object by marching rays through distance functions (a second a pair).
"""

import argparse
import json
import math
import sys
from itertools import combinations
from pathlib import Path

import numpy as np

RADIUS = {"large": 0.7, "small": 0.35}
COLOURS = {"gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"}
WORDS = {"shape": {"cube", "sphere", "cylinder"}, "material": {"rubber", "metal"}, "color": COLOURS, "size": {*RADIUS}}
OPPOSITE = {"left": "right", "front": "behind"}


def broken_rules(
    pair: dict,
    size: tuple[int, int] = (320, 240),
    n_objects: tuple[int, int] = (4, 6),
    n_edited: int = 2,
    changes: frozenset[str] = frozenset({"color", "shape"}),
    min_pixels: float = 200,
    gap: float = 0.25,
    margin: float = 0.4,
) -> list[str]:
    """What is wrong with a pair, in words; nothing if all rules hold."""
    wrong = []
    for part in ("original_scene", "modified_scene"):
        scene = pair[part]
        for check in (_objects, _directions, _pixels, _relations):
            wrong += [f"{part}: {one}" for one in check(scene, size)]
        if not n_objects[0] <= len(scene["objects"]) <= n_objects[1]:
            wrong.append(f"{part}: {len(scene['objects'])} objects")
        wrong += [f"{part}: {one}" for one in _room(scene, gap) + _margins(scene, margin)]
        if min(scene["visible_pixels"]) < min_pixels or len(scene["visible_pixels"]) != len(scene["objects"]):
            wrong.append(f"{part}: visible pixels {scene['visible_pixels']}")
    return wrong + _edit(pair, n_edited, changes)


def _objects(scene: dict, size: tuple[int, int]) -> list[str]:
    wrong = []
    for number, one in enumerate(scene["objects"]):
        wrong += [f"object {number}: {key} {one[key]}" for key, words in WORDS.items() if one[key] not in words]
        x, y, z = one["3d_coords"]
        if max(abs(x), abs(y)) > 3 or z != RADIUS[one["size"]]:
            wrong.append(f"object {number} is at {one['3d_coords']}")
        if not 0 <= one["rotation"] <= 360:
            wrong.append(f"object {number} is turned by {one['rotation']}")
    return wrong


def _view(scene: dict) -> np.ndarray:
    """Rows: the camera's right, down and forward."""
    forward = -np.array(scene["camera"]) / np.linalg.norm(scene["camera"])
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def _directions(scene: dict, size: tuple[int, int]) -> list[str]:
    right, _, forward = _view(scene)
    behind = forward * [1, 1, 0] / np.hypot(forward[0], forward[1])
    expected = {"right": right, "left": -right, "behind": behind, "front": -behind, "above": [0, 0, 1]}
    expected["below"] = [0, 0, -1]
    return [
        f"direction {name} is {scene['directions'][name]}, not {vector}"
        for name, vector in expected.items()
        if not np.allclose(scene["directions"][name], vector, atol=1e-9)
    ]


def _pixels(scene: dict, size: tuple[int, int]) -> list[str]:
    """Through the matrix of a pinhole camera."""
    wrong = []
    focal = 35 / 32 * max(size)
    matrix = np.array([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]]) @ _view(scene)
    for number, one in enumerate(scene["objects"]):
        x, y, depth = matrix @ (np.array(one["3d_coords"]) - scene["camera"])
        column, row, stated = one["pixel_coords"]
        if max(abs(x / depth - column), abs(y / depth - row)) > 0.5 + 1e-6 or abs(depth - stated) > 1e-6:
            wrong.append(f"object {number} is at pixel {x / depth, y / depth, depth}, not {one['pixel_coords']}")
    return wrong


def _relations(scene: dict, size: tuple[int, int]) -> list[str]:
    wrong = []
    objects, relations = scene["objects"], scene["relationships"]
    for name, opposite in OPPOSITE.items():
        for i, j in combinations(range(len(objects)), 2):
            difference = np.subtract(objects[j]["3d_coords"], objects[i]["3d_coords"])
            j_there = float(difference @ scene["directions"][name]) > 0
            said = (
                j in relations[name][i],
                i in relations[opposite][j],
                j in relations[opposite][i],
                i in relations[name][j],
            )
            if said != (j_there, j_there, not j_there, not j_there):
                wrong.append(f"{name}/{opposite} of {i} and {j}: {said}, but {j_there}")
    for name, rows in relations.items():
        if len(rows) != len(objects) or any(row != sorted(set(row)) for row in rows):
            wrong.append(f"relationships {name}: {rows}")
    if set(relations) != {"left", "right", "front", "behind"}:
        wrong.append(f"relationships: {sorted(relations)}")
    return wrong


def _footprint(one: dict) -> np.ndarray:
    """(N, 2): the outline on the ground."""
    radius, (x, y, _) = RADIUS[one["size"]], one["3d_coords"]
    if one["shape"] == "cube":
        along = np.linspace(-radius, radius, 60)
        side = np.full_like(along, radius)
        local = np.concatenate(
            [np.stack(each, 1) for each in ((along, side), (along, -side), (side, along), (-side, along))]
        )
        turn = math.radians(one["rotation"])
        local = local @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    else:
        angles = np.linspace(0, 2 * math.pi, 240, endpoint=False)
        local = radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    return local + np.array([x, y])


def _room(scene: dict, gap: float) -> list[str]:
    """By the circles around the footprints (a cube's is sqrt(2) wider), and by the footprints themselves."""
    wrong = []
    for (i, one), (j, other) in combinations(enumerate(scene["objects"]), 2):
        apart = math.dist(one["3d_coords"][:2], other["3d_coords"][:2])
        reach = [RADIUS[each["size"]] * (math.sqrt(2) if each["shape"] == "cube" else 1) for each in (one, other)]
        nearest = np.linalg.norm(_footprint(one)[:, None] - _footprint(other)[None], axis=2).min()
        if apart - sum(reach) < gap - 1e-9 or nearest < gap - 1e-9:
            wrong.append(f"objects {i} and {j} are {nearest:.3f} apart")
    return wrong


def _margins(scene: dict, margin: float) -> list[str]:
    wrong = []
    for (i, one), (j, other) in combinations(enumerate(scene["objects"]), 2):
        difference = np.subtract(one["3d_coords"], other["3d_coords"]) * [1, 1, 0]
        for name in ("left", "right", "front", "behind"):
            if abs(difference @ scene["directions"][name]) < margin - 1e-9:
                wrong.append(f"objects {i} and {j} are hardly apart along {name}")
    return wrong


def _edit(pair: dict, n_edited: int, changes: frozenset[str]) -> list[str]:
    wrong = []
    before, after = pair["original_scene"], pair["modified_scene"]
    different = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    allowed = {"objects", "image_filename", "visible_pixels"}
    if "size" in changes:  # a small object's centre is nearer to the ground
        allowed |= {"relationships"}
    if not different <= allowed:
        wrong.append(f"the scenes differ in {sorted(different)}")
    moved = changes | ({"3d_coords", "pixel_coords"} if "size" in changes else set())
    changed = []
    for index, (old, new) in enumerate(zip(before["objects"], after["objects"], strict=True)):
        keys = {key for key in {*old, *new} if old.get(key) != new.get(key)}
        if keys:
            changed.append({"index": index, "original": old, "replacement": new})
            if not changes <= keys <= moved or old["3d_coords"][:2] != new["3d_coords"][:2]:
                wrong.append(f"object {index} changed in {sorted(keys)}")
    if changed != pair["modification"]["replaced_objects"]:
        wrong.append("the log of changes is not what changed")
    if len(changed) != n_edited:
        wrong.append(f"{len(changed)} objects changed")
    return wrong


def counted_pixels(scene: dict, size: tuple[int, int] = (320, 240)) -> list[int]:
    """Pixels whose centre shows each object, by marching along each ray by the distance to the nearest object."""
    width, height = size
    columns, rows = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    pinhole = np.stack([columns.ravel(), rows.ravel(), np.full(width * height, 35 / 32 * max(size))], 1)
    rays = pinhole @ _view(scene)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    eye = np.array(scene["camera"])
    with np.errstate(divide="ignore"):
        end = np.where(rays[:, 2] < 0, -eye[2] / rays[:, 2], np.inf)
    gone = np.full(len(rays), np.linalg.norm(eye) - 7.0)  # nothing stands nearer to the camera
    seen = np.full(len(rays), -1)
    going = np.flatnonzero(gone < np.minimum(end, 40))
    while len(going):
        points = eye + rays[going] * gone[going, None]
        distances = np.stack([_distance(one, points) for one in scene["objects"]])
        nearest = distances.min(axis=0)
        met = nearest < 1e-5
        seen[going[met]] = distances.argmin(axis=0)[met]
        gone[going] += np.maximum(nearest, 1e-6)
        going = going[~met & (gone[going] < np.minimum(end[going], 40))]
    return [int((seen == number).sum()) for number in range(len(scene["objects"]))]


def _distance(one: dict, points: np.ndarray) -> np.ndarray:
    """From (N, 3) points to the object's surface."""
    radius = RADIUS[one["size"]]
    local = points - np.array(one["3d_coords"])
    if one["shape"] == "sphere":
        return np.linalg.norm(local, axis=1) - radius
    if one["shape"] == "cylinder":
        beyond = np.stack([np.hypot(local[:, 0], local[:, 1]), np.abs(local[:, 2])], 1) - radius
    else:
        turn = math.radians(one["rotation"])
        local[:, :2] = local[:, :2] @ np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        beyond = np.abs(local) - radius
    return np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0)


def wrong_counts(scene: dict, size: tuple[int, int] = (320, 240), tolerance: int = 3) -> list[str]:
    """Stated and counted pixels may differ by the rays that graze an edge."""
    counted = counted_pixels(scene, size)
    return [
        f"object {number}: {stated} visible pixels stated, {count} counted"
        for number, (stated, count) in enumerate(zip(scene["visible_pixels"], counted, strict=True))
        if abs(stated - count) > tolerance
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pixels", action="store_true", help="count pixels too")
    options = parser.parse_args()
    files = sorted((options.folder / "scenes").glob("*_comparison.json"))
    n_wrong, n_objects = 0, 0
    for file in files:
        pair = json.loads(file.read_text())
        wrong = broken_rules(pair)
        if options.pixels:
            for part in ("original_scene", "modified_scene"):
                wrong += [f"{part}: {one}" for one in wrong_counts(pair[part])]
        n_wrong += len(wrong)
        n_objects += len(pair["original_scene"]["objects"])
        for one in wrong:
            print(f"{file.name}: {one}")
    print(f"{len(files)} pairs, {n_objects} objects, {n_wrong} broken rules")
    return 1 if n_wrong or not files else 0


if __name__ == "__main__":
    sys.exit(main())
