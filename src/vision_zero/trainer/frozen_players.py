"""Players that do not train: the run's start, for the arena and as a past player, or a named model as past player.

In a share of the games a past player has a role in place of the policy, but only in the stage that trains none of its
completions, a voter's in clue stages and clue givers' in decision stages: so no game lacks rows.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from math import floor
from typing import Any

from peft import PeftModel
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from trl.trainer.utils import create_model_from_path

from vision_zero.models import zero3_disabled
from vision_zero.models.attention import use_grouped_sdpa
from vision_zero.rollout.image_store import look_images_up
from vision_zero.rollout.load_policy import Loading, ModelPlayer, load_player
from vision_zero.rollout.play import Seating
from vision_zero.rollout.transformers_policy import TransformersPolicy
from vision_zero.trainer.generation import whole_weights
from vision_zero.types import Game, GameSummary, Stage

SEATS = {"voter": ("voter",), "clue": ("civilian", "spy"), "civilian": ("civilian",), "spy": ("spy",)}


class FrozenStart:
    """What the policy of an `IterativeSPOTrainer` began as; a copy is loaded once. Made after the trainer's models."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    @cached_property
    def model(self) -> PreTrainedModel:
        """The policy if it has an adapter, to be left out, else the reference model, which stays it, else a copy."""
        trainer = self.trainer
        if isinstance(trainer.model, PeftModel):
            return trainer.model
        if trainer.ref_model is not None:
            return trainer.accelerator.unwrap_model(trainer.ref_model)
        with zero3_disabled(trainer.args):
            name, options = trainer.model.config._name_or_path, trainer.args.model_init_kwargs or {}
            copy = use_grouped_sdpa(create_model_from_path(name, **options))
        look_images_up(copy, trainer.images)
        return copy.to(trainer.accelerator.device).eval().requires_grad_(False)

    def player(self, model: PreTrainedModel, *, frozen: bool = False) -> ModelPlayer:
        """The model as a player in the trainer's precision; `frozen`: without its adapter, if it has one."""
        trainer, args = self.trainer, self.trainer.args

        @contextmanager
        def around() -> Iterator[None]:
            autocast = trainer.accelerator.autocast() if args.bf16 else nullcontext()
            with autocast, model.disable_adapter() if frozen and isinstance(model, PeftModel) else nullcontext():
                yield

        policy = TransformersPolicy(model, trainer.processing_class, args.sampling(), max_batch=args.rollout_batch_size)
        return ModelPlayer(policy, around, frozen)

    @contextmanager
    def gathered(self, *players: ModelPlayer) -> Iterator[None]:
        """With ZeRO-3 or FSDP every process has the weights of these players whole inside, and plays its own games."""
        models, accelerator = [player.policy.model for player in players], self.trainer.accelerator
        is_split = is_deepspeed_zero3_enabled() or self.trainer.args.fsdp
        with ExitStack() as whole:
            for split in (self.trainer.model_wrapped, self.trainer.ref_model) if is_split else ():
                if split is not None and accelerator.unwrap_model(split) in models:
                    whole.enter_context(whole_weights(split, accelerator))
            yield


def has_past_player(game: int, share: Fraction) -> bool:
    """Whether the game of this index is in the `share`, spread evenly: floor(n * share) of the first n games are."""
    return floor((game + 1) * share) > floor(game * share)


class PastPlayers:
    """Those of an `IterativeSPOTrainer` that has its `start`. Raises ValueError or OSError for a wrong `past_model`."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.args, self.start = trainer, trainer.args, trainer.start
        self.share, name = Fraction(str(self.args.past_players)), self.args.past_model
        if not self.share:
            return
        if name is None:
            self.player = self.start.player(self.start.model, frozen=True)
        else:  # it reads prompts by its own processor, with the pixels that the policy's allows
            size = trainer.processing_class.image_processor.size
            pixels = size.get("shortest_edge"), size.get("longest_edge")
            loading = Loading(self.args.sampling(), self.args.rollout_batch_size, *pixels, use_cpu=self.args.use_cpu)
            with zero3_disabled(self.args):
                self.player = replace(load_player(name, loading), frozen=True)
        model, policy, reference = self.player.policy.model, trainer.model, trainer.ref_model
        size = sum(one.numel() * one.element_size() for one in model.parameters()) / 1e9
        words = f"a frozen copy of {name or policy.config._name_or_path}, {size:.2f} GB"
        if name is None and (model is policy or reference is not None):
            words = f"the {'policy without its adapter' if model is policy else 'reference model'}, no further memory"
        if trainer.accelerator.is_main_process:
            tqdm.write(f"past players: {words}", file=sys.stderr)

    def games(self, stage: Stage, indices: Iterable[int]) -> frozenset[int]:
        """Those of the games that have a past player while `stage` trains."""
        return frozenset(k for k in indices if stage == self.args.past_stage and has_past_player(k, self.share))

    @contextmanager
    def seated(self, seating: Seating, games: Sequence[Game], stage: Stage) -> Iterator[Seating]:
        """`seating` with the past players of one rollout. Processes with ZeRO-3 or FSDP enter and leave together."""
        if not self.share or stage != self.args.past_stage:
            yield seating
            return
        self.player.forget()
        past = replace(seating, **dict.fromkeys(SEATS[self.args.past_role], self.player))
        # Where the policy plays by itself, its weights are gathered already.
        is_whole = self.trainer.generation.engine is None and self.player.policy.model is self.trainer.model
        try:
            with self.start.gathered(*([] if is_whole else [self.player])):
                yield replace(seating, past=past, past_games=self.games(stage, (game.index for game in games)))
        finally:
            self.player.policy.new_weights()  # its caches of this rollout hold memory that the update needs

    def record(self, game: int, stage: Stage) -> dict[str, str] | None:
        """What the record of a game says of its past player."""
        known = {"role": self.args.past_role, "model": self.args.past_model or "start"}
        return known if self.games(stage, [game]) else None

    def metrics(self, games: Sequence[GameSummary], stage: Stage) -> dict[str, float]:
        """Share of the games that have a past player, and of their votes that are right, if there are any."""
        past = self.games(stage, (game.game for game in games))
        right = [vote == game.spy for game in games if game.game in past for vote in game.votes]
        shares = {"past/votes_right": sum(right) / len(right)} if right else {}
        return shares | ({"past/games": len(past) / len(games)} if self.share else {})
