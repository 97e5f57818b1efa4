"""Vision-Zero: vision-language models that improve by playing "Who is the spy?" against themselves."""

import io
import sys

__version__ = "0.1.0"

# A terminal without UTF-8 shows what it lacks as escapes, as Python does on stderr: no print ends a command.
for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper) and _stream.errors == "strict":
        _stream.reconfigure(errors="backslashreplace")
