"""Ask a vision-language model for an edit of each photograph: instructions for a learned editor.

    python run_scripts/propose_edits.py data/photos --model MODEL --out proposals.jsonl

Writes a line per photograph, `{"image", "instruction"}`; for a completion that does not parse the instruction is null
and the completion is kept. A stopped run continues where it stopped.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from vision_zero.config.game import add_options, beside
from vision_zero.data.pairs import load_pairs
from vision_zero.game.parsing import read_clue
from vision_zero.make_data.photos.instructions import MAX_CHARS
from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.load_policy import Loading, load_player
from vision_zero.rollout.policy import Policy, TokenLimits, TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.stopping import end_with_reader
from vision_zero.run_folder import append_json_line, read_json_lines
from vision_zero.types import Game, GameRules, ImagePair, Prompt, Turn

QUESTION = Path(__file__).with_suffix(".txt").read_text("utf-8")


def request(pair: ImagePair, row: int, seed: int, max_new_tokens: int) -> TurnRequest:
    """One turn that asks for an instruction. Its tokens depend on (seed, row) alone. Raises BadImageError.

    A policy answers turns of games; a photograph stands in one as the civilians' image.
    """
    turn = Turn(game=row, stage="clue", round=1, seat=1, sample=0)
    game = Game(index=row, seed=seed, pair=pair, rules=GameRules(), spy=2, spy_view="blank")
    image = GameImage(f"{pair.id}/original", pair.image.open())
    # As many bits as any policy's generator takes.
    turn_seed = (seed * 1_000_003 + row) % 2**31
    return TurnRequest(game, turn, Prompt("civilian", QUESTION), image, turn_seed, TokenLimits(1, max_new_tokens))


def propose(
    policy: Policy, pairs: Sequence[ImagePair], rows: Sequence[int], *, batch: int, seed: int, max_new_tokens: int
) -> Iterator[dict[str, str | None]]:
    """A line of the file for each of `rows`, in order, `batch` of them asked at a time."""
    for start in range(0, len(rows), batch):
        requests = [request(pairs[row], row, seed, max_new_tokens) for row in rows[start : start + batch]]
        for asked, completion in zip(requests, policy.answer(requests), strict=True):
            told = read_clue(completion.text, MAX_CHARS)
            line = {"image": asked.game.pair.id, "instruction": told}
            yield line if told is not None else {**line, "completion": completion.text}


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        pairs = load_pairs(args.photos, pair_by=args.pair_by, dataset_split=args.split)
        done = finished(args.out)
        rows = [row for row in range(len(pairs)) if pairs[row].id not in done]
        n_unreadable = sum(not readable for readable in done.values())
        if rows:
            sampling = Sampling(temperature=args.temperature, top_k=args.top_k)
            loading = Loading(sampling, max_batch=args.batch, max_pixels=args.max_pixels, use_cpu=args.use_cpu)
            asked = {"batch": args.batch, "seed": args.seed, "max_new_tokens": args.max_new_tokens}
            proposals = propose(load_player(args.model, loading), pairs, rows, **asked)
            for proposal in tqdm(proposals, total=len(rows), desc="asking", unit="photo", disable=None):
                append_json_line(args.out, proposal)
                n_unreadable += proposal["instruction"] is None
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {len(pairs)} photographs, {len(rows)} asked now, {n_unreadable} without a readable instruction")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python run_scripts/propose_edits.py", description="Propose edits.")
    add_options(parser, beside(__file__))
    args = parser.parse_args(argv)
    if args.out.suffix != ".jsonl":
        parser.error(f"--out must end in .jsonl, got {args.out}")
    return args


def finished(path: Path) -> dict[str, bool]:
    """Images of an earlier run by name: True if the completion was parsed. An unfinished last line is ignored.

    Raises RunFolderError for a file of something else.
    """
    return {line["image"]: line["instruction"] is not None for line in read_json_lines(path, "image", "instruction")}


if __name__ == "__main__":
    end_with_reader()
    sys.exit(main())
