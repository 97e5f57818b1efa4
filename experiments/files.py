"""Readers of YAML and JSON-lines files, with errors that name the file."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from vision_zero.run_folder import read_json_lines

Line = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Refuses a mapping that has a key twice; YAML itself keeps the last silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(file: Path) -> Line:
    """A file of `name: value` lines. Raises ValueError by the file's name for anything else, OSError without one."""
    try:
        content = yaml.load(file.read_text("utf-8"), _Loader)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{file}: must hold `name: value` lines")
    return content


def read_lines(file: Path, needed: Callable[[Line], Iterable[str]] = lambda line: ()) -> list[Line]:
    """The lines of a file, none if it is not there.

    Raises ValueError by the file's name, and the line's number, for what cannot be read and for a line without one of
    the names that it needs; OSError for what is no file.
    """
    lines = read_json_lines(file)
    for number, line in enumerate(lines, start=1):
        if missing := [name for name in needed(line) if name not in line]:
            raise ValueError(f"{file}, line {number}: without {', '.join(missing)}; repair or remove the line")
    return lines
