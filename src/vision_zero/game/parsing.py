r"""Parsers of completions: private reasoning, then one `\boxed{...}` with a clue or a vote.

Every function is total (no string makes it raise) and strict (unparsed text is never guessed). Completions are
untrusted and shown to other players, so nothing in them may become a control token, an image placeholder or another
line of a prompt.
"""

import re
import unicodedata
from itertools import accumulate

from vision_zero.types import Vote

MAX_CLUE_CHARS = 300
"""A public clue is cut at this many characters."""

_BOX = re.compile(r"\\boxed\s*\{")

# Whole control tokens and tags, those of every chat template: <|im_end|>, <image>, </img>, <IMG_CONTEXT>, [INST].
# None of the alternatives spans whitespace, which is why a space put between two characters cannot create a match.
_CONTROL_TOKEN = re.compile(
    r"<[|\uff5c][^<>|\uff5c\s]*[|\uff5c]>"
    r"|</?[A-Za-z_][\w:.-]*/?>"
    r"|\[/?(?:INST|IMG|IMG_BREAK|IMG_END)\]"
)
_TOKEN_DELIMITER = re.compile(r"<[|\uff5c]|[|\uff5c]>")

_LATEX_WRAPPER = (
    r"(?<!\\)\\+(?:boxed|fbox|mbox|text|textbf|textit|textrm|textsf|texttt|emph|underline"
    r"|textup|textnormal|mathbf|mathit|mathrm|mathsf|mathtt|operatorname|boldsymbol|bm)\s*\{"
)
_LATEX_WRAPPER_OR_BRACE = re.compile(rf"{_LATEX_WRAPPER}|(?<!\\)\\+[{{}}]|[{{}}]")
_LATEX_ESCAPE = re.compile(r"(?<!\\)\\+([%$#&_])")

_INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co"})

# Of votes only: `~`, `\ ` and `\,` space, `$2$` and `**2**` emphasise, and forms of one character mean another.
_LATEX_SPACE = re.compile(r"~|(?<!\\)\\+(?:[ ,;:!]|(?:quad|qquad|enspace|thinspace|space)(?![A-Za-z]))")
_EMPHASIS = re.compile(r"(?<!\\)(\${1,2}|\*{1,3})([^$*]+)\1|(?<!\\)\\+\(([^()\\]+)\\+\)")
_PLAIN_FORMS: dict[int, int | str] = {
    **{c: c - 0xFEE0 for c in range(0xFF01, 0xFF5F)},  # full width
    **dict.fromkeys((*range(0x2010, 0x2016), 0x2212), "-"),
    **dict.fromkeys((0x2044, 0x2215), "/"),
    0x2116: "No.",
}

_PLAYER_NUMBER = re.compile(
    r"(?:player(?: - |-|[ _]*))?(?:(?:#|number[ _]|no\.|(?<=player )no ) ?)?([1-9][0-9]{0,8})\.?",
    re.ASCII | re.IGNORECASE,
)
_NOT_AVAILABLE = re.compile(r"n(?: ?(?:\\*/|[.-]) ?)?a\.?", re.ASCII | re.IGNORECASE)

BOX_PLACEHOLDERS = frozenset({"your clue", "number"})
"""What the templates write into their boxes in place of a clue or a vote."""


def split_completion(text: str) -> tuple[str, str | None]:
    r"""Private reasoning of a completion and the content of its last `\boxed{}`, `None` if it has no box.

    The last box is the one that starts last; braces inside it are matched, and one that is never closed reads to the
    end of its line. The reasoning is everything outside that box, cleaned by `clean_text`, so it can be shown again
    to the player who wrote it. The boxed content is raw: parse it with `read_clue` or `read_vote`.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return clean_text(text), None
    start = boxes[-1].end()
    closing = closing_brace(text, start)
    if closing is None:
        line_end = text.find("\n", start)
        closing = resume = line_end if line_end >= 0 else len(text)
    else:
        resume = closing + 1
    before, after = text[: boxes[-1].start()].rstrip("\\"), text[resume:]
    return clean_text(f"{before.rstrip()}\n{after.lstrip()}"), text[start:closing]


def clean_text(text: str) -> str:
    """Text of a model, made safe to put into a prompt. Keeps newlines, and is idempotent.

    Removes control characters, format and bidirectional characters, surrogates and private-use characters (Unicode
    Cc, Cf, Cs, Co), control tokens (`<|...|>`) and image placeholders (`<image>`, `<IMG_CONTEXT>` and any other tag).
    No `<|` or `|>` is left. Every kind of line break becomes a newline, a tab a space.
    """
    text = "\n".join(text.splitlines()).replace("\t", " ")
    text = "".join(c for c in text if c == "\n" or unicodedata.category(c) not in _INVISIBLE_CATEGORIES)
    removed = 1
    while removed:  # removing a token can join its two sides to a new one: <|im_<|x|>end|>
        text, removed = _CONTROL_TOKEN.subn("", text)
    return _TOKEN_DELIMITER.sub(" ", text).strip()


def read_clue(text: str, max_chars: int = MAX_CLUE_CHARS) -> str | None:
    r"""The clue in a completion: its last box as one clean line of at most `max_chars` characters; `None`: unparsed.

    A clue that is empty after cleaning is unparsed, and so is a copied placeholder of the prompt. LaTeX wrappers,
    escapes and braces are removed, so parsing is idempotent: `read_clue(f"\\boxed{{{clue}}}") == clue`.

    Raises ValueError if `max_chars` is not positive.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars must be positive, got {max_chars}")
    _, boxed = split_completion(text)
    if boxed is None:
        return None
    clue, previous = boxed, None
    while clue != previous:  # cleaning can bring the two halves of a LaTeX escape together, and the reverse
        previous = clue
        clue = _LATEX_ESCAPE.sub(r"\1", _LATEX_WRAPPER_OR_BRACE.sub("", clue))
        clue = " ".join(clean_text(" ".join(clue.split())).split())
    clue = clue[:max_chars].rstrip()
    return None if clue.casefold().strip(" .,:…<>[]()\"'*_") in BOX_PLACEHOLDERS else clue or None


def read_vote(text: str, n_players: int) -> Vote:
    r"""The vote in a completion's last box: a seat in 1..n_players, `None` for N/A, or 0 if it is invalid.

    Around the number only "player", "number", "no." and "#", emphasis (`**3**`, `$3$`), a full stop, spaces, TeX's too,
    and LaTeX wrappers are tolerated, in full width too. Two numbers, signs, decimals, leading zeros, other scripts'
    digits, seats that do not exist, other words and a missing box are invalid. "N/A", "NA", "N / A", "N-A" and "N.A."
    are N/A in any case; other ways to abstain are invalid.

    Raises ValueError if `n_players` is not positive.
    """
    if n_players < 1:
        raise ValueError(f"n_players must be positive, got {n_players}")
    _, boxed = split_completion(text)
    if boxed is None:
        return 0
    # A brace becomes a space, not nothing: {1}{2} is two numbers.
    answer = _LATEX_SPACE.sub(" ", _LATEX_WRAPPER_OR_BRACE.sub(" ", boxed).translate(_PLAIN_FORMS))
    for _ in range(2):  # `$**3**$`
        answer = _EMPHASIS.sub(r" \2\3 ", answer)
    answer = " ".join(_LATEX_ESCAPE.sub(r"\1", answer).split())
    if _NOT_AVAILABLE.fullmatch(answer):
        return None
    number = _PLAYER_NUMBER.fullmatch(answer)
    seat = int(number[1]) if number else 0
    return seat if seat <= n_players else 0


def closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the one before `start`; None if it is never closed."""
    depths = accumulate(((one == "{") - (one == "}") for one in text[start:]), initial=1)
    return next((start + n - 1 for n, depth in enumerate(depths) if depth == 0), None)
