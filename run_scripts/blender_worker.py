"""Program for Blender's Python: draws scenes from JSON lines until its input ends.

    .venv-blender/bin/python run_scripts/blender_worker.py

First it writes {"ready": true, "version": ..., "device": ...}, then {"path": ...} for each request {"scene": ...,
"width", "height", "samples", "path"} once the PNG is written. `render_blender` is the other end and defines the JSON.
Nothing of this package is imported, as this Python does not have it. An error ends the program with its traceback.
"""

import json
import math
import os
import sys
from typing import Any

import bpy

GPU_KINDS = ("OPTIX", "CUDA", "HIP", "ONEAPI", "METAL")
MATT, GLOSS = "ShaderNodeBsdfDiffuse", "ShaderNodeBsdfAnisotropic"


def main() -> None:
    # Blender prints to standard output from C. What is ours goes through a copy, and theirs to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    device = set_up(threads)
    studio = Studio()
    ready = {"ready": True, "version": bpy.app.version_string, "device": device}
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        studio.draw(request)
        print(json.dumps({"path": request["path"]}), file=answers, flush=True)


def set_up(threads: int) -> str:
    """Make an empty file with the fixed settings; choose a GPU if there is one. Returns the device's name."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    render, cycles = scene.render, scene.cycles
    render.engine = "CYCLES"
    render.resolution_percentage = 100
    render.image_settings.file_format = "PNG"
    render.image_settings.color_mode = "RGB"
    render.dither_intensity = 0  # noise that hides banding would differ between the images of a pair
    render.use_persistent_data = False  # it keeps what removed objects were made of
    scene.view_settings.view_transform = "Standard"
    if threads:
        render.threads_mode = "FIXED"
        render.threads = threads
    cycles.seed = 0
    cycles.max_bounces = 4
    cycles.use_denoising = True
    cycles.denoiser = "OPENIMAGEDENOISE"
    cycles.denoising_prefilter = "FAST"
    return use_gpu(cycles)


def use_gpu(cycles: Any) -> str:
    preferences = bpy.context.preferences.addons["cycles"].preferences
    for kind in GPU_KINDS:
        try:
            preferences.compute_device_type = kind
        except TypeError:  # this build does not know that kind
            continue
        preferences.get_devices()
        devices = [device for device in preferences.devices if device.type == kind]
        if devices:
            for device in preferences.devices:
                device.use = device.type == kind
            cycles.device = "GPU"
            return f"{kind}: {devices[0].name}"
    preferences.compute_device_type = "NONE"
    cycles.device = "CPU"
    return "CPU"


class Studio:
    """Ground, lamps, camera, a mesh per shape and a material per look, all made once; objects change."""

    def __init__(self) -> None:
        self.scene = bpy.context.scene
        self.meshes = {
            "sphere": mesh_of("uv_sphere", segments=96, ring_count=48),
            "cube": mesh_of("cube", size=2),
            "cylinder": mesh_of("cylinder", vertices=128, radius=1, depth=2),
        }
        self.materials: dict[tuple[str, tuple[float, ...]], Any] = {}
        self.lamps: dict[str, Any] = {}
        self.camera = self._link("camera", bpy.data.cameras.new("camera"))
        self.scene.camera = self.camera
        self.scene.world = bpy.data.worlds.new("world")
        self.scene.world.use_nodes = True
        self.ground = self._link("ground", mesh_of("plane", size=200))

    def _link(self, name: str, data: Any) -> Any:
        made = bpy.data.objects.new(name, data)
        self.scene.collection.objects.link(made)
        return made

    def draw(self, request: dict[str, Any]) -> None:
        described = request["scene"]
        self._light(described["lights"], described["sky"])
        self.ground.data.materials.clear()
        self.ground.data.materials.append(self._material(described["ground"]))
        camera = described["camera"]
        self.camera.location = camera["position"]
        self.camera.data.lens, self.camera.data.sensor_width = camera["lens"], camera["sensor"]
        self.camera.data.sensor_fit = "AUTO"  # the sensor spans the longer side
        look(self.camera, [-one for one in camera["position"]])
        objects = [self._place(one) for one in described["objects"]]
        render = self.scene.render
        render.resolution_x, render.resolution_y = request["width"], request["height"]
        render.filepath = request["path"]
        self.scene.cycles.samples = request["samples"]
        bpy.ops.render.render(write_still=True)
        for one in objects:
            bpy.data.objects.remove(one, do_unlink=True)

    def _light(self, lights: list[dict[str, Any]], sky: float) -> None:
        background = self.scene.world.node_tree.nodes["Background"]
        background.inputs["Color"].default_value = (sky, sky, sky, 1)
        for number, light in enumerate(lights):
            name = f"light {number}"
            if name not in self.lamps:
                self.lamps[name] = self._link(name, bpy.data.lights.new(name, light["type"]))
            lamp = self.lamps[name]
            lamp.data.color, lamp.data.energy = light["color"], light["energy"]
            if light["type"] == "SUN":
                lamp.data.angle = light["angle"]
            else:
                lamp.data.size = light["size"]
                lamp.location = light["position"]
            look(lamp, [-one for one in light["direction"]])

    def _place(self, one: dict[str, Any]) -> Any:
        made = self._link("object", self.meshes[one["shape"]])
        made.location, made.scale = one["position"], [one["radius"]] * 3
        made.rotation_euler = (0, 0, math.radians(one["rotation"]))
        if one["shape"] != "sphere":
            bevel = made.modifiers.new("bevel", "BEVEL")
            bevel.width, bevel.segments = one["bevel"], 4
            bevel.limit_method, bevel.angle_limit = "ANGLE", math.radians(40)
            bevel.harden_normals = True
        made.material_slots[0].link = "OBJECT"
        made.material_slots[0].material = self._material(one)
        return made

    def _material(self, one: dict[str, Any]) -> Any:
        key = (one["material"], tuple(one["rgb"]))
        if key not in self.materials:
            made = bpy.data.materials.new("material")
            made.use_nodes = True
            shade(made.node_tree, one["material"], (*one["rgb"], 1))
            self.materials[key] = made
        return self.materials[key]


def look(one: Any, direction: list[float]) -> None:
    """Point a camera or a lamp, whose axis is -z, into a direction, top up."""
    from mathutils import Vector  # it is there once bpy is

    one.rotation_euler = Vector(direction).to_track_quat("-Z", "Y").to_euler()


def mesh_of(kind: str, **sizes: float) -> Any:
    """The mesh of a primitive, smooth, with an empty slot for a material."""
    getattr(bpy.ops.mesh, f"primitive_{kind}_add")(**sizes)
    added = bpy.context.object
    mesh = added.data
    mesh.polygons.foreach_set("use_smooth", [True] * len(mesh.polygons))
    mesh.materials.append(None)
    bpy.data.objects.remove(added, do_unlink=True)
    return mesh


def shade(tree: Any, material: str, colour: tuple[float, ...]) -> None:
    """Give an empty material its shader: matt, or two of them mixed by the share of the second."""
    shaders, share = {
        "ground": ([(MATT, colour, 0.0)], 0.0),
        "rubber": ([(MATT, colour, 0.0), (GLOSS, (1, 1, 1, 1), 0.6)], 0.04),
        "metal": ([(GLOSS, colour, 0.447), (GLOSS, colour, 0.1)], 0.6),
    }[material]
    tree.nodes.clear()
    surface = tree.nodes.new("ShaderNodeOutputMaterial").inputs["Surface"]
    outputs = []
    for kind, own_colour, roughness in shaders:
        node = tree.nodes.new(kind)
        node.inputs["Color"].default_value = own_colour
        node.inputs["Roughness"].default_value = roughness
        outputs.append(node.outputs["BSDF"])
    if len(outputs) == 2:
        node = tree.nodes.new("ShaderNodeMixShader")
        node.inputs[0].default_value = share
        for number, output in enumerate(outputs, start=1):
            tree.links.new(output, node.inputs[number])
        outputs = [node.outputs[0]]
    tree.links.new(outputs[0], surface)


if __name__ == "__main__":
    main()
