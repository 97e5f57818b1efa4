"""Vision-Zero: vision-language models that improve by playing "Who is the spy?" against themselves."""

__version__ = "0.1.0"
