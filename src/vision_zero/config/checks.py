"""Checks of options before anything slow starts; every error names the value and the alternative."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from transformers import IntervalStrategy
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.trainer_pt_utils import AcceleratorConfig

from vision_zero.config.game import beside

if TYPE_CHECKING:
    from trl import GRPOConfig

_TABLES = beside(__file__)
REFUSED: dict[str, str] = _TABLES["refused"]
NOT_USED = {name: f"is not supported: {instead}" for instead, names in REFUSED.items() for name in names.split()}
NOT_USED |= _TABLES["not_used"]
LEAST, MOST = (
    {name: value for value, names in _TABLES[bound].items() for name in names.split()} for bound in ("least", "most")
)


def refuse(options: Any, reasons: Mapping[str, str]) -> None:
    """Raises ValueError, with name, value and reason, for an option of `reasons` that is not at its default."""
    for one in fields(options):
        given, default = getattr(options, one.name), None if one.default is MISSING else one.default
        if isinstance(given, dict) and given.items() <= AcceleratorConfig().to_dict().items():
            given = default  # as config.yaml has accelerator_config
        if one.name in reasons and (given or "no") != (default or "no"):
            shown = "..." if one.name.endswith("token") else getattr(given, "value", given)
            raise ValueError(f"{one.name}={shown} {reasons[one.name]}")


def refuse_without_switch(options: Any, switch: str, *beginnings: str) -> None:
    """Raises ValueError for an option, named by its beginning, of what `switch` turns on while that is off."""
    names = [one.name for one in fields(options) if one.name.startswith(beginnings) and one.name != "lora_dropout"]
    if not (given := getattr(options, switch)):
        value = "=True" if given is False else ""
        refuse(options, dict.fromkeys(names, f"has no effect without {switch}{value}: give both, or leave it out"))


def read_fsdp_config(given: Mapping[str, Any] | str | None) -> dict[str, Any] | None:
    """FSDP2's options of a file, or as given, and defaults. Raises ValueError for one that is not supported."""
    if given is None:
        return None
    known = _TABLES["fsdp_config"]
    try:
        text = Path(given).read_text("utf-8") if isinstance(given, str) and given[:1] != "{" else str(given)
        if not isinstance(said := yaml.safe_load(text), dict):
            raise ValueError("it must have names and values, as configs/fsdp2.yaml")
        options = {name: values[0] for name, values in known.items()} | said
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"fsdp_config={given}: cannot be read: {' '.join(str(error).split())}") from error
    if wrong := [f"{name}={value}" for name, value in options.items() if value not in known.get(name, ())]:
        raise ValueError(f"fsdp_config has {wrong[0]}, and may have {known}, as configs/fsdp2.yaml")
    return options


def check_options(args: GRPOConfig) -> None:
    """Raises ValueError, with name and value, for an option that would not have its documented effect."""
    refuse(args, NOT_USED)
    if any("\ud800" <= one <= "\udfff" for one in str(args.output_dir)):  # bytes of a path that are no text
        raise ValueError(f"output_dir={args.output_dir!r} is not UTF-8, so safetensors could not save to it")
    for one in fields(args):
        if isinstance(number := getattr(args, one.name), float) and not math.isfinite(number):
            raise ValueError(f"{one.name}={number} must be a finite number")
    for name, least in LEAST.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if args.save_steps != int(args.save_steps):
        raise ValueError(f"save_steps={args.save_steps} must be a whole number of optimizer steps")
    for name, most in MOST.items():
        if getattr(args, name) > most:
            raise ValueError(f"{name}={getattr(args, name)} must be at most {most}")
    if str(args.pad_to_multiple_of).startswith(("-", "0")):
        raise ValueError(f"pad_to_multiple_of={args.pad_to_multiple_of} must be at least 1")
    _check_choices(args, _TABLES["choices"])
    if IntervalStrategy(args.logging_strategy) is not IntervalStrategy.STEPS:
        raise ValueError("logging_strategy must be steps: metrics.jsonl is what is left of a run")
    if args.loss_type not in ("grpo", "dapo"):
        raise ValueError(f"loss_type={args.loss_type!r} is not supported; use one of grpo, dapo")
    if args.scale_rewards not in ("group", "none"):
        raise ValueError(f"scale_rewards={args.scale_rewards!r} is not supported; use group (paper) or none")
    _check_trackers(args)
    if args.use_vllm:
        _check_vllm(args)
    if args.fsdp_config is not None:
        refuse(args, _TABLES["with_fsdp"])
    _check_past_players(args)
    if args.arena_games < 4 or args.arena_games % 2:
        raise ValueError(f"arena_games={args.arena_games} must be even and at least 4: every deal is played twice")
    if args.reward_control:
        refuse(args, {"format_weight": f"has a meaning, and reward_control={args.reward_control} leaves none: give 0"})
    if args.train_stages == "both" and args.kl_weight("clue") != args.kl_weight("decision"):
        raise ValueError(
            f"train_stages=both has rows of both stages in one batch, which has one KL weight: kl_clue="
            f"{args.kl_weight('clue')} and kl_decision={args.kl_weight('decision')} must be equal"
        )


def _check_past_players(args: GRPOConfig) -> None:
    """Raises ValueError for past players who would never play, or leave games without rows, averages without games."""
    refuse_without_switch(args, "past_players", "past_")
    games, share = args.games_per_iteration, Fraction(str(args.past_players))
    if not share:
        return
    if args.past_role is None:
        raise ValueError(f"past_players={args.past_players} needs past_role: voter, civilian, spy or clue (both)")
    refuse(args, _TABLES["with_past_players"])
    if args.past_stage == "decision":
        refuse(args, {"rae_stages": f"moves the baselines by clues of past_role={args.past_role}; leave it at clue"})
    if args.schedule in ("decision", "clue") and args.schedule != args.past_stage:
        refuse(args, {"schedule": f"has no {args.past_stage} stages, in which past_role={args.past_role} plays"})
    if share * games * args.iterations < 1:
        refuse(args, {"past_players": f"is less than one of the run's {games * args.iterations} games"})
    if games - 1 < games * share < games:
        most = f"at most {(games - 1) * 10_000 // games / 10_000}, or all (1)" if games > 1 else "1"
        raise ValueError(
            f"past_players={args.past_players} leaves iterations without a game of the policy alone, which the "
            f"stage's averages count: of {games} games give {most}"
        )


def _check_trackers(args: GRPOConfig) -> None:
    for name in [args.report_to] if isinstance(args.report_to, str) else args.report_to or []:
        if name in ("all", "none"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(
                f"report_to={name} is not known; trackers are {', '.join(sorted(INTEGRATION_TO_CALLBACK))}"
            )
        if name not in get_available_reporting_integrations() and name != "flyte":  # that one says so itself
            raise ValueError(f"report_to={name}: its package is not installed here; install it, or use another tracker")


def _check_choices(args: GRPOConfig, choices: Mapping[str, Sequence[str | None]]) -> None:
    for name, allowed in choices.items():
        if getattr(args, name) not in allowed:
            words = ", ".join(str(one) for one in allowed if one is not None)
            raise ValueError(f"{name}={getattr(args, name)} must be one of {words}")


def _check_vllm(args: GRPOConfig) -> None:
    if find_spec("vllm") is None:
        raise ValueError("use_vllm=True, but vLLM is not installed here: bash setup.sh installs it")
    _check_choices(args, _TABLES["vllm_choices"])
    if not 0 < args.vllm_gpu_memory_utilization <= 1:
        raise ValueError(f"vllm_gpu_memory_utilization={args.vllm_gpu_memory_utilization} must be a share, up to 1")
    if (most := args.vllm_importance_sampling_clip_max) is not None and most <= 0:
        raise ValueError(f"vllm_importance_sampling_clip_max={most} must be positive")
    if args.vllm_enable_sleep_mode and args.use_cpu:
        raise ValueError("vllm_enable_sleep_mode=True gives a GPU's memory back; leave it out on a CPU")
    if args.vllm_mode == "server":
        _check_server(args)
    else:
        refuse(args, dict.fromkeys(_TABLES["for_a_server"].split(), "is for vllm_mode=server; leave it out"))


def server_urls(args: GRPOConfig) -> list[str]:
    """Addresses of the vLLM servers, as http://host:port."""
    given = args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}"
    return [url.rstrip("/") for url in given.replace(",", " ").split()]


def _check_server(args: GRPOConfig) -> None:
    urls = server_urls(args)
    if args.vllm_server_base_url:
        refuse(args, dict.fromkeys(("vllm_server_host", "vllm_server_port"), "has no effect with vllm_server_base_url"))
    for name, n_ports in (("vllm_server_port", 1), ("vllm_group_port", len(urls))):
        if not 0 < getattr(args, name) <= 65536 - n_ports:
            raise ValueError(f"{name}={getattr(args, name)} must be a port, 1 to {65536 - n_ports}")
    if args.vllm_server_timeout <= 0:
        raise ValueError(f"vllm_server_timeout={args.vllm_server_timeout} must be a number of seconds above 0")
    for url in urls or [""]:
        address = re.fullmatch(r"https?://(?:[\w.-]+|\[[\da-fA-F:.]+\])(?::(\d{1,5}))?", url)
        if address is None or not 0 < int(address[1] or 80) < 65536:
            raise ValueError(f"vllm_server_base_url={url} must be http://HOST:PORT, or several of those, with commas")
        if urls.count(url) > 1:
            raise ValueError(f"vllm_server_base_url has {url} twice; every server must be one of its own")
    told = "is for vllm_mode=colocate; a server is told when it is started: {} of run_scripts/vllm_server.sh"
    refuse(args, {name: told.format(instead) for name, instead in _TABLES["of_the_server"].items()})
