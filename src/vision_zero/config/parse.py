"""Parser of a run's options from flags and a YAML file, and their conversion back to YAML.

Argparse checks types and choices of flags only; this module checks those of the file in the same way.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers.hf_argparser import string_to_bool
from trl import ModelConfig, TrlParser

from vision_zero.config.checks import NOT_USED, refuse, refuse_without_switch
from vision_zero.config.game import GameConfig
from vision_zero.config.options import DERIVED, IterativeSPOConfig
from vision_zero.data.drawn_scenes import is_heldout
from vision_zero.game.prompts import load_template
from vision_zero.run_folder import CONFIG, options_at, replaced_words, without_removed_options

USAGE = (
    "python -m vision_zero.train [--config FILE.yaml] --images SOURCE ... --model_name_or_path MODEL --output_dir DIR "
    "[--OPTION VALUE ...]   or   --output_dir DIR --resume   (all options: --help, docs/configuration.md)"
)
NOT_WRITTEN = frozenset({*DERIVED, "fsdp", "hub_token", "push_to_hub_token", "local_rank"})
"""Options that are derived from others and the number of processes, and secrets."""

PARTS = (GameConfig, IterativeSPOConfig, ModelConfig)
_TYPES = {field.name: str(field.type) for part in PARTS for field in dataclasses.fields(part)}
Options = tuple[GameConfig, IterativeSPOConfig, ModelConfig]


class _SaidOnce(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            sys.exit(2)
        super().error(message)


class _Parser(_SaidOnce, TrlParser):
    def set_defaults_with_config(self, *, where: str = "the file of --config", **values: Any) -> list[str]:
        """Checked values of the file as defaults. Raises ValueError, naming the option."""
        actions = {action.dest: action for action in reversed(self._actions)}  # --x stands before its --no_x
        values = without_removed_options(values)
        unknown = sorted(name for name in values if name not in actions)
        if unknown and where.startswith("the file"):
            raise ValueError(f"{where} has unknown options: {', '.join(unknown)}{replaced_words(unknown)}")
        return super().set_defaults_with_config(
            **{
                name: checked(actions[name], value, f"{where} has {name}")
                for name, value in values.items()
                if name in actions  # an earlier version's option of a resumed run is told with its changed ones
            }
        )


def checked(action: argparse.Action, value: Any, where: str) -> Any:
    """YAML value converted to its option's type. Raises ValueError that begins with `where`."""
    if value is None:
        return None
    if action.nargs in ("*", "+"):
        return [_checked_one(action, one, where) for one in (value if isinstance(value, list) else [value])]
    return _checked_one(action, value, where)


def _checked_one(action: argparse.Action, value: Any, where: str) -> Any:
    """One YAML value, parsed as the flag's text would be; a dictionary or list is kept where allowed."""
    if isinstance(value, (dict, list)) and type(value).__name__ in _TYPES.get(action.dest, ""):
        return value
    known = list(action.choices or [])
    wanted = f"one of {', '.join(map(str, known))}" if known else getattr(action.type, "__name__", "text")
    wanted = {"string_to_bool": "true or false", "str": "text", "int": "a whole number", "float": "a number"}.get(
        wanted, wanted
    )
    is_scalar = isinstance(value, (str, int, float))
    is_number_for_bool = isinstance(value, bool) and action.type in (int, float)
    try:
        if not is_scalar or is_number_for_bool:
            raise ValueError
        read = action.type(str(value)) if callable(action.type) else value
        if known and read not in known:
            raise ValueError
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        raise ValueError(f"{where}: {value!r}, which must be {wanted}") from None
    return read


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Options from flags and the YAML file of `--config`; flags win. Raises ValueError for unknown or wrong ones.

    With `--resume` all that neither of them gives is taken from the run in `--output_dir`.
    """
    arguments = _with_config_apart(sys.argv[1:] if arguments is None else arguments)
    parser = _Parser(PARTS, usage=USAGE, allow_abbrev=False)  # type: ignore[arg-type]
    parser.set_defaults(lora_dropout=0.0)  # TRL's 0.05 is refused
    parser.set_defaults_with_config(where=f"{CONFIG} of the run", **_options_of_the_run(arguments))
    game, args, model, unknown = parser.parse_args_and_config(arguments, return_remaining_strings=True)
    if unknown:
        raise ValueError(
            f"unknown arguments: {' '.join(unknown)}; see --help or docs/configuration.md{replaced_words(unknown)}"
        )
    if not game.images:
        raise ValueError("no image source: give --images with one or more folders, manifests or data sets")
    if heldout := [one for one in game.images if is_heldout(one)]:
        raise ValueError(f"--images {heldout[0]}: these drawings are kept for evaluation; train on drawn:COUNT[@FIRST]")
    if not model.model_name_or_path:
        raise ValueError("no model: give --model_name_or_path with a folder or a name on the Hub")
    refuse(model, NOT_USED)
    refuse(args, {"model_init_kwargs": "is not supported: use dtype, attn_implementation and trust_remote_code"})
    refuse_without_switch(model, "use_peft", "lora_", "use_rslora")
    if not args.resume:  # a run may go on without its engine
        refuse_without_switch(args, "use_vllm", "vllm_")
    if model.load_in_4bit and (args.deepspeed or args.fsdp or not model.use_peft):
        raise ValueError(
            "load_in_4bit=True (QLoRA) trains adapters, without ZeRO or FSDP: give --use_peft true, no --deepspeed"
        )
    if model.use_peft and model.lora_dropout:
        raise ValueError(
            f"lora_dropout={model.lora_dropout} must be 0: players have none, so another model would train"
        )
    game.rules(args.num_generations)
    if game.template != "auto":
        load_template(game.template)
    return game, args, model


def _options_of_the_run(arguments: Sequence[str]) -> dict[str, Any]:
    """Options of the run that `--resume` or `--resume_from` continues, {} without them. Raises RunFolderError."""
    first = _SaidOnce(usage=USAGE, add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=lambda file: yaml.safe_load(Path(file).read_text("utf-8")), default={})
    first.add_argument("--output_dir", "--output-dir")
    first.add_argument("--resume", nargs="?", const=True, type=string_to_bool)
    first.add_argument("--resume_from", "--resume-from", type=int)
    given, _ = first.parse_known_args(arguments)
    words = {name: value for name, value in vars(given).items() if value is not None}
    asked = {**given.config, **words}
    step = asked.get("resume_from")
    if not asked.get("output_dir") or not (asked.get("resume") or step is not None):
        return {}
    options = options_at(Path(asked["output_dir"]), step)
    if options.get("logging_nan_inf_filter"):  # TRL's default, in runs of earlier versions; told as changed
        del options["logging_nan_inf_filter"]
    return options


def _with_config_apart(arguments: Sequence[str]) -> list[str]:
    """Arguments with `--config=FILE` split in two, as TRL's parser needs. Raises ValueError for an unusable file."""
    apart: list[str] = []
    for argument in arguments:
        apart += argument.split("=", 1) if argument.startswith("--config=") else [argument]
    if apart.count("--config") > 1:
        raise ValueError("--config was given twice; options of one file can be changed by flags")
    if "--config" in apart:
        file = "".join(apart[apart.index("--config") + 1 :][:1])
        if not file or file.startswith("--"):
            raise ValueError("--config needs a YAML file")
        path = Path(file)
        try:
            options = yaml.safe_load(path.read_text("utf-8"))
        except OSError as error:
            raise ValueError(f"--config {path}: cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"--config {path}: not a YAML file: {' '.join(str(error).split())}") from error
        if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
            raise ValueError(f"--config {path}: must hold `name: value` lines")
    return apart


def resolved(game: GameConfig, args: IterativeSPOConfig, model: ModelConfig) -> dict[str, Any]:
    """All options but derived ones and secrets, as plain values: a YAML file of them parses to the same options."""
    return {
        field.name: _plain(getattr(options, field.name))
        for options in (game, args, model)
        for field in dataclasses.fields(options)
        if field.init and field.name not in NOT_WRITTEN
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple, set)):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if hasattr(value, "to_dict"):  # accelerate's own configuration objects
        return _plain(value.to_dict())
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
