"""Check the options of a command as its program would, and what they name. For DRY_RUN=1: nothing starts or is written.

python run_scripts/check_options.py PROCESSES -m MODULE [OPTIONS]
"""

import gc
import sys
from pathlib import Path


def main() -> None:
    processes, _, module, *arguments = sys.argv[1:]
    try:
        if module == "vision_zero.train":
            check_training(arguments, int(processes))
        elif module == "vision_zero.make_data":
            check_making(arguments)
        elif module == "vision_zero.evaluate":
            check_evaluating(arguments)
        else:
            check_serving(arguments)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


def check_training(arguments: list[str], processes: int) -> None:
    """All but what is found out by loading weights. A model that is no folder here is left to the Hub's machine."""
    print("checking the options, which takes 10 seconds", file=sys.stderr)
    gc.disable()
    from vision_zero import ranks, train
    from vision_zero.config.parse import parse
    from vision_zero.evaluate.win_rate.callback import training_arena
    from vision_zero.models import check_model, find_models, load_processor
    from vision_zero.models.hub import check_place

    ranks.world_size = lambda: processes  # of the command; here is one, which waits for no other
    ranks.join = lambda *_: None
    game, args, model = parse(arguments)
    train.silence(args)
    name, processor = model.model_name_or_path, None
    if Path(name).exists():
        processor = load_processor(name, game.min_pixels, game.max_pixels, trust_remote_code=args.trust_remote_code)
    else:
        check_place(name)
        print(f"the model {name} is not checked: it is no folder here", file=sys.stderr)
    if args.past_model is not None and (Path(args.past_model).exists() or not args.past_model):
        check_model(find_models([args.past_model])[-1])
    pairs, _ = train.load_checked_pairs(game, True, processor)
    training_arena(game, args, pairs)


def check_evaluating(arguments: list[str]) -> None:
    from vision_zero.evaluate.benchmarks.options import parse as parse_benchmarks
    from vision_zero.evaluate.win_rate.cross_play import distinct_models
    from vision_zero.evaluate.win_rate.options import parse

    command, *words = arguments
    if command == "vlmevalkit":
        parse_benchmarks(words)
    else:
        options = parse(words, command)
        if command == "cross-play":
            distinct_models(str(options.config.reference), options.models)


def check_making(arguments: list[str]) -> None:
    from vision_zero.make_data import __main__ as make_data
    from vision_zero.make_data.download.main import chosen_set, parse
    from vision_zero.make_data.maker import MakerError

    if arguments[0] == make_data.DOWNLOAD:
        chosen_set(parse(arguments[1:]))
        return
    args, module = make_data.parse(arguments, make_data.MAKERS)
    try:
        make_data.kept_options(args, module.from_arguments(args))
    except MakerError as error:
        raise ValueError(error) from error


def check_serving(arguments: list[str]) -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    usage = "vllm_server.sh [any option of vllm serve]"
    make_arg_parser(FlexibleArgumentParser(prog="vllm_server.sh", usage=usage)).parse_args(arguments)


if __name__ == "__main__":
    main()
