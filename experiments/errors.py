"""Errors that a user can correct end a program with one line and status 1, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps

Main = Callable[..., int]


def in_words(main: Main) -> Main:
    """`main`, ending with `error: ...` where it raises ValueError or OSError: these name the file and the value."""

    @wraps(main)
    def checked(*arguments: object) -> int:
        try:
            return main(*arguments)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    return checked
