"""Iterative self-play policy optimization: rewards, advantages and the stage switch, one idea a file, no torch."""
