"""Train by self-play: `python -m vision_zero.train --config configs/quickstart.yaml --output_dir runs/mine`."""

import gc
import hashlib
import logging
import os
import shlex
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from vision_zero.rollout.stopping import STATUS, STOP, StoppedError, end_with_reader

if __name__ == "__main__":
    STOP.listen()  # before the imports, which take seconds
    end_with_reader(go_on=True)
    gc.disable()  # while thousands of modules are imported, which it would look through again and again
    if os.environ.get("RANK", "0") != "0":
        os.environ.pop("WANDB_MODE", None)  # transformers prints it when it is imported; rank 0 alone reports
    elif not {"-h", "--help"} & {*sys.argv}:
        print("vision_zero.train: loading torch, transformers and TRL", file=sys.stderr, flush=True)

# Others' messages that say nothing to a run's user, here and in `silence`; all others are shown.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings of a connection have a page of C++ each
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is marked experimental; TRL is pinned

import accelerate
import datasets
import torch
import torch.distributed
from accelerate import PartialState
from accelerate.utils import gather_object
from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import PrinterCallback, ProcessorMixin, ProgressCallback
from transformers.utils.logging import disable_progress_bar
from trl import ModelConfig, get_peft_config

from vision_zero import ranks, run_folder
from vision_zero.config.game import GameConfig
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.config.parse import parse, resolved
from vision_zero.data.failed_edits import PairsWithFailedEdits
from vision_zero.data.folder_lock import LOCK, locked
from vision_zero.data.pairs import BadImageError, check_pairs
from vision_zero.evaluate.win_rate.callback import ArenaCallback, training_arena
from vision_zero.models import check_model, check_saved, find_models, load_model, load_processor, zero3_disabled
from vision_zero.plan import say as plan
from vision_zero.rollout.lora import LANGUAGE, four_bits, language_layers
from vision_zero.rollout.policy import NotFiniteError, PromptTooLongError
from vision_zero.rollout.self_check import SelfCheckError, check_files, out_of_memory
from vision_zero.rollout.transformers_policy import image_tokens as tokens_of
from vision_zero.rollout.vllm.client import VLLMServerError
from vision_zero.trainer import resume
from vision_zero.trainer.callbacks import GamesTable, IterationLine, MetricsFile, SelfCheck, UpdateBar
from vision_zero.trainer.checkpointing import is_saved, save_last_iteration
from vision_zero.trainer.finite import how_to_go_on
from vision_zero.trainer.generation import LogprobGapError
from vision_zero.trainer.iterative_spo import IterativeSPOTrainer
from vision_zero.types import ImagePair

MEMORY = {
    "playing": "a smaller --rollout_batch_size or --max_pixels, or --arena_every 0 if an arena played",
    "scoring": "a smaller --logprob_tokens or --max_pixels",
    "updating": "a smaller --per_device_train_batch_size or --max_pixels, or --gradient_checkpointing true",
}
"""Options that bound what a part needs, none of which changes the games but --max_pixels."""

if __name__ == "__main__":
    gc.enable()


@ranks.one_error()
def main(arguments: list[str] | None = None) -> None:
    with ExitStack() as lock, memory_told():
        try:
            trainer, checkpoint = prepare(arguments, lock)
        except (ValueError, OSError, ImportError, SafetensorError, VLLMServerError) as error:
            sys.exit(f"error: {error}")
        STOP.set_grace(trainer.args.grace)
        try:
            with suppress(StoppedError):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            if STOP.agreed:
                leave(trainer)
            finish(trainer)
        except run_folder.WriteError as error:
            sys.exit(f"error: {error}. {how_to_go_on(Path(trainer.args.output_dir), ' once it can be written')}")
        except SelfCheckError as error:
            if trainer.accelerator.is_main_process and not trainer.args.resume:
                (Path(trainer.args.output_dir) / run_folder.CONFIG).unlink(missing_ok=True)  # it holds no run yet
            sys.exit(f"error: {error}")
        except (BadImageError, PromptTooLongError, LogprobGapError, NotFiniteError, VLLMServerError) as error:
            sys.exit(f"error: {error}")


@contextmanager
def memory_told() -> Iterator[None]:
    """An error of memory becomes one line: the part, the settings that bound it, and that the checkpoint is good."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        said, doing = str(error).strip().splitlines() or [type(error).__name__], ranks.last["doing"]
        bounds = MEMORY.get(doing, "a smaller model, LoRA, or more GPUs; `python -m vision_zero.plan` finds what fits")
        sys.exit(
            f"error: out of memory while {doing}: {said[-1]}. Give {bounds}. Complete checkpoints are whole: --resume "
            "goes on from the last"
        )


def prepare(arguments: list[str] | None, lock: ExitStack) -> tuple[IterativeSPOTrainer, Path | None]:
    """The trainer, and the checkpoint it goes on from; checks first, writes last. `lock` holds the run's folder."""
    gc.freeze()  # what is imported stays: collections need not look through it
    game, args, model = parse(arguments)
    silence(args)
    if ranks.watch is not None:
        ranks.watch.advice = lambda: how_to_go_on(Path(args.output_dir))
    if (args.deepspeed or args.fsdp) and "RANK" not in os.environ:  # DeepSpeed would look for MPI
        option = "--deepspeed" if args.deepspeed else "--fsdp_config"
        raise ValueError(f"{option} needs torchrun: torchrun --nproc_per_node 2 -m vision_zero.train ...")
    if args.deepspeed:
        start_deepspeed(on_cpu=args.use_cpu)
    if "wandb" in args.report_to and not (os.environ.get("WANDB_MODE") or has_wandb_key()):
        os.environ["WANDB_MODE"] = "offline"  # it would ask for a key, or end the run
        os.environ.setdefault("WANDB_SILENT", "true")  # seven lines, of which this one has what matters
        if os.environ.get("RANK", "0") == "0":
            where = f"{os.environ.get('WANDB_DIR') or '.'}/wandb/offline-run-*"
            print(f"wandb is offline, without a key; to send the run later: wandb sync {where}", file=sys.stderr)
    state = PartialState()
    if args.past_model is not None:
        try:
            args.past_model = find_models([args.past_model])[-1]  # of a run, its last checkpoint
        except (ValueError, OSError) as error:
            raise ValueError(f"--past_model {args.past_model}: {error}") from error
    config = resolved(game, args, model)
    checkpoint, saved = find_start(args, config, state, lock)
    processor = load_processor(
        model.model_name_or_path, game.min_pixels, game.max_pixels, trust_remote_code=args.trust_remote_code
    )
    pairs, image_tokens = load_checked_pairs(game, state.is_main_process, processor)
    inputs = check_inputs(args, model, pairs, saved, game.template) if state.is_local_main_process else ([], {})
    if ranks.nodes() > 1:
        check_nodes_agree(state, config, *inputs)
    if state.is_main_process:
        if args.reward_control:
            print(f"reward_control={args.reward_control}: a control run, its rewards carry no meaning", file=sys.stderr)
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() and not args.use_cpu else None
        weight_bytes = 2 if model.dtype in ("bfloat16", "float16") else 4
        print(plan.line(plan.run_setup(model, game, args, gpu, image_tokens), weight_bytes), file=sys.stderr)
    arena = training_arena(game, args, pairs)
    trainer = build(game, args, model, pairs, processor)
    if arena is not None:
        trainer.add_callback(ArenaCallback(trainer, arena))
    if state.is_main_process:
        resume.write_inputs(Path(args.output_dir), *inputs)
        open_folder(args, config, checkpoint)
    return trainer, checkpoint


def has_wandb_key() -> bool:
    """A key in the environment, or a login that wandb has written to .netrc."""
    logins = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    text = logins.read_text("utf-8", "replace") if logins.is_file() else ""
    hosts = ("api.wandb.ai", "forge.coreweave.com", urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname)
    keys = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    return any(os.environ.get(name) for name in keys) or any(host in text for host in hosts if host)


def silence(args: IterativeSPOConfig) -> None:
    """Leave out messages of other packages that say nothing to a run's user, each by its name."""
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)  # DeepSpeed's calls
    logging.getLogger("transformers.trainer_utils").addFilter(  # players have their own end and padding
        lambda record: not record.getMessage().startswith("The tokenizer has new PAD/BOS/EOS tokens")
    )
    if not sys.stderr.isatty():  # bars of loaded files, which only a terminal redraws
        disable_progress_bar()
        datasets.disable_progress_bars()
    # accelerate imports it to ask whether a model is its, and it says that there is no GPU
    if not args.deepspeed and "ACCELERATE_USE_DEEPSPEED" not in os.environ:
        accelerate.utils.other.is_deepspeed_available = lambda: False


def load_checked_pairs(
    game: GameConfig, main_process: bool, processor: ProcessorMixin | None = None
) -> tuple[Any, int]:
    """Training pairs, checked before anything slow, and tokens of the largest image, 0: unknown. The main says both."""
    most = 0
    read = game.pairs("train")
    noisy = PairsWithFailedEdits(read, game.failed_edits)
    pairs = noisy if game.failed_edits else read
    if game.failed_edits and game.spy_view in ("blank", "masked"):
        raise ValueError(f"failed_edits={game.failed_edits} changes nothing with spy_view={game.spy_view}")
    if main_process:
        report = check_pairs(pairs, collect=game.on_bad_image == "skip")
        if game.spy_view == "edited" and report.n_edited < report.n_pairs:
            raise ValueError(
                f"spy_view=edited, but only {report.n_edited} of {report.n_pairs} pairs have an edited image; "
                "use spy_view=auto, blank or masked"
            )
        if game.failed_edits and not report.n_edited:
            raise ValueError(f"failed_edits={game.failed_edits} changes nothing: no pair has an edited image")
        for note in (*read.notes, *report.notes):
            print(note, file=sys.stderr)
        opened = f"{report.n_opened} opened, {len(report.bad)} bad"
        print(f"{len(pairs)} image pairs, {report.n_edited} with an edited image; {opened}", file=sys.stderr)
        if processor is not None and processor.chat_template and report.sizes:
            least, median, most = (tokens_of(processor, size) for size in report.sizes)
            told = f"{least} of the smallest, {median} of the median size, {most} of the largest"
            print(f"tokens of an image: {told}", file=sys.stderr)
            if most > 1500:
                print("warning: more than 1,500 tokens an image cost much memory; see --max_pixels", file=sys.stderr)
        if game.failed_edits:
            failed = noisy.counts()
            print(
                f"failed edits on purpose: {failed['blank']} blank, {failed['identical']} identical of "
                f"{report.n_edited} ({game.failed_edits:.0%} asked for)",
                file=sys.stderr,
            )
    return pairs, most


def start_deepspeed(on_cpu: bool) -> None:
    """Raises ValueError where DeepSpeed would find no GPU."""
    if not on_cpu and not torch.cuda.is_available():
        raise ValueError("--deepspeed finds no GPU here; on a CPU it needs --use_cpu")
    if on_cpu:
        import deepspeed

        deepspeed.init_distributed("gloo")  # by itself it would choose a backend that needs an accelerator


def find_start(
    args: IterativeSPOConfig, config: dict[str, Any], state: PartialState, lock: ExitStack
) -> tuple[Path | None, dict[str, Any]]:
    """`run_folder.find_start` and the state in what it found, by the main process; what it refuses stops all."""
    output_dir = Path(args.output_dir)
    answer: list[Any] = [None, None]
    if state.is_main_process:
        try:
            if output_dir.is_dir() or not output_dir.exists():
                lock.enter_context(locked(output_dir))
            found = run_folder.find_start(output_dir, args.resume, config, args.resume_from)
            answer[0] = found, resume.read_state(found, config)
        except (ValueError, OSError) as error:
            answer[1] = error
    if state.num_processes > 1:
        torch.distributed.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    if ranks.nodes() > 1:
        check_folder_is_shared(output_dir, args.rendezvous_timeout)
    checkpoint, saved = answer[0]
    return checkpoint, saved


def check_folder_is_shared(folder: Path, seconds: float) -> None:
    """Raises ValueError, with the hosts, if a process does not see the lock that the main one holds in `folder`."""
    lock = gather_object([(folder / LOCK).read_text() if os.environ["RANK"] == "0" else ""])[0]

    def seen() -> bool:
        with suppress(OSError):
            return bool(os.listdir(folder)) and (folder / LOCK).read_text() == lock
        return False

    if blind := gather_object([] if run_folder.in_time(seen, seconds) else [socket.gethostname()]):
        raise ValueError(
            f"{folder} on {', '.join(sorted({*blind}))} is not the folder in which {lock} writes the run: choose an "
            "--output_dir (OUTPUT_BASE_DIR) on a file system that all nodes share, at the same path"
        )


def check_nodes_agree(state: PartialState, config: dict[str, Any], prints: list[Any], files: dict[str, str]) -> None:
    """Raises ValueError for a node that was started with other options, or reads other pairs or another model."""
    pairs = hashlib.sha256(repr(prints).encode()).hexdigest()
    own = {**{f"--{name}": one for name, one in config.items()}, "its image pairs": pairs, **files}
    first, *others = gather_object([(socket.gethostname(), own if state.is_local_main_process else {})])
    for host, its in others:  # caches of the Hub are filled by parts
        if other := [name for name in its.keys() & first[1].keys() if its[name] != first[1][name]]:
            raise ValueError(f"{min(other)} of host {host} is not that of {first[0]}: all nodes must have the same")


def check_inputs(
    args: IterativeSPOConfig, model: ModelConfig, pairs: Any, state: dict[str, Any], template: str
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Fingerprints of the pairs and the model; a resumed run must have been begun with the same."""
    check_saved(model.model_name_or_path)
    prints = resume.fingerprint_pairs(pairs)
    files = resume.fingerprint_model(model.model_name_or_path, model.model_revision)
    if args.past_model is not None:
        check_model(args.past_model)
        files |= {f"past_model/{file}": one for file, one in resume.fingerprint_model(args.past_model, None).items()}
    if Path(template).is_file():
        files[str(Path(template).resolve())] = resume.fingerprint_file(Path(template))
    if args.resume:
        resume.check_pairs_unchanged(Path(args.output_dir), prints, state, args.seed)
        resume.check_model_unchanged(Path(args.output_dir), model.model_name_or_path, files)
    return prints, files


def open_folder(args: IterativeSPOConfig, config: dict[str, Any], checkpoint: Path | None) -> None:
    """What writes comes now: everything has been checked."""
    output_dir = Path(args.output_dir)
    if not args.resume:
        run_folder.describe(output_dir, config)
        return
    for name, (then, now) in run_folder.changed_options(output_dir, config, args.resume_from).items():
        print(f"resumed with {name}={now} (was {then})", file=sys.stderr)
    run_folder.rewind(output_dir, checkpoint)
    run_folder.write_changes(output_dir, config, run_folder.step_of(checkpoint) if checkpoint else 0)
    if checkpoint:
        resume.restore_records(output_dir, checkpoint)
        if (then := len(list(checkpoint.glob("rng_state*.pth")))) != (now := PartialState().num_processes):
            print(
                f"resumed on {now} processes (was {then}): its games are the same, sums round otherwise",
                file=sys.stderr,
            )
    print(f"resuming from {checkpoint or 'the beginning: there is no complete checkpoint'}", file=sys.stderr)


def build(
    game: GameConfig,
    args: IterativeSPOConfig,
    model: ModelConfig,
    pairs: list[ImagePair],
    processor: ProcessorMixin,
    **kwargs: Any,
) -> IterativeSPOTrainer:
    args.model_init_kwargs = {
        **(args.model_init_kwargs or {}),
        "dtype": "float32" if model.dtype in (None, "auto") and args.use_cpu else model.dtype,
        # FlashAttention takes no mask, so that samples could share nothing (`prefix_sharing`).
        "attn_implementation": model.attn_implementation or "sdpa",
    }
    with zero3_disabled(args):  # a look at the files: TRL, which loads them, would make up weights that are missing
        on_meta = load_model(
            model.model_name_or_path,
            device_map="meta",
            dtype=args.model_init_kwargs["dtype"],
            trust_remote_code=args.trust_remote_code,
        )
    # FSDP and DeepSpeed step float32 masters of bfloat16 weights, unless DeepSpeed's file says otherwise.
    masters = args.bf16 and (
        args.fsdp or (args.deepspeed and not args.hf_deepspeed_config.is_true("bf16.bf16_master_weights_and_grads"))
    )
    if on_meta.dtype.itemsize < 4 and not model.use_peft and not masters:
        raise ValueError(
            f"dtype={model.dtype} trains {str(on_meta.dtype).removeprefix('torch.')} weights, in which steps of "
            f"learning_rate={args.learning_rate} are mostly rounded away; give --dtype float32 (with --bf16 true it "
            "computes in bfloat16), --use_peft true, or --bf16 true and --deepspeed configs/deepspeed/zero2.json"
        )
    check_files(processor, on_meta, model.model_name_or_path)
    peft: PeftConfig | None = get_peft_config(model)
    if isinstance(peft, LoraConfig) and peft.target_modules in (None, LANGUAGE, {LANGUAGE}):
        peft.target_modules = language_layers(on_meta)
    elif isinstance(peft, LoraConfig) and not isinstance(peft.target_modules, str):
        names = [f".{name}" for name, _ in on_meta.named_modules()]
        if lost := [one for one in peft.target_modules if not any(name.endswith(f".{one}") for name in names)]:
            raise ValueError(f"lora_target_modules: no layer is called {lost[0]}; `language` stands alone")
    if model.load_in_4bit:
        kwargs["quantization_config"] = four_bits(on_meta, torch.bfloat16 if args.bf16 else on_meta.dtype)
    games_table = [GamesTable(pairs)] if args.wandb_games and "wandb" in args.report_to else []
    trainer = IterativeSPOTrainer(
        model.model_name_or_path,
        args,
        pairs,
        game.rules(args.num_generations),
        processor,
        template=game.template,
        on_bad_image=game.on_bad_image,
        peft_config=peft,
        callbacks=[MetricsFile(), IterationLine(), UpdateBar(), *games_table],
        **kwargs,
    )
    trainer.add_callback(SelfCheck(trainer))
    trainer.remove_callback(ProgressCallback)  # either of the two prints every logged number
    trainer.remove_callback(PrinterCallback)
    return trainer


def finish(trainer: IterativeSPOTrainer) -> None:
    """Leave a complete last checkpoint with its export, and say where things are."""
    last = run_folder.checkpoint_path(trainer.args.output_dir, trainer.state.global_step)
    if not is_saved(trainer, trainer.state.global_step):
        trainer._save_checkpoint(trainer.model, trial=None)
    if trainer.accelerator.is_main_process:
        step, all_steps = trainer.state.global_step, trainer.state.max_steps
        word = "done" if step >= all_steps else f"stopped after step {step} of {all_steps}, --resume goes on"
        print(f"{word}: load {trainer.export(last)}; curves in {trainer.args.output_dir}/{run_folder.METRICS}")


def leave(trainer: IterativeSPOTrainer) -> NoReturn:
    """Save the last iteration after a signal, and say how to go on."""
    saved, number = save_last_iteration(trainer), STOP.number or 0
    if trainer.accelerator.is_main_process:
        lost = trainer.state.global_step - (run_folder.step_of(saved) if saved else 0)
        where = f"the run is saved at {saved}" if saved else "nothing is saved" if lost else "nothing was trained yet"
        where += f" (the {lost} steps after it are lost: they are no whole iteration)" if lost else ""
        several = trainer.accelerator.num_processes > 1 or trainer.args.deepspeed or trainer.args.fsdp  # of one, too
        program = f"torchrun --nproc_per_node {os.environ.get('LOCAL_WORLD_SIZE', 1)}" if several else "python"
        if ranks.nodes() > 1:
            program += f" --nnodes {ranks.nodes()} --node_rank N --master_addr {os.environ['MASTER_ADDR']}"
        command = f"{program} -m vision_zero.train --output_dir {shlex.quote(trainer.args.output_dir)} --resume true"
        tqdm.write(f"stopped by {signal.Signals(number).name}: {where}; continue with: {command}", file=sys.stderr)
    trainer.accelerator.wait_for_everyone()
    sys.exit(STATUS[number])


if __name__ == "__main__":
    main()
