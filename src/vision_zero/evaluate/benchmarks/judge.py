"""Check that a judge answers, before a model is scored for hours."""

from __future__ import annotations

import os

import httpx

from vision_zero.evaluate.benchmarks.options import JUDGE_KEY

TIMEOUT = 120.0
"""Seconds: a judge that has just been started may still be warming up."""


def check_judge(model: str, url: str) -> None:
    """Ask a judge at `url` (with its /v1) a question. Raises ValueError, with what it says, if it does not answer."""
    question = {
        "model": model,
        "messages": [{"role": "user", "content": "Answer with one word: is 2 more than 1?"}],
        "max_tokens": 16,
        "temperature": 0,
    }
    key = os.environ.get(JUDGE_KEY) or "none"
    where = f"--judge_url {url}, --judge_model {model}"
    try:
        answer = httpx.post(
            f"{url.rstrip('/')}/chat/completions",
            json=question,
            headers={"Authorization": f"Bearer {key}"},
            timeout=TIMEOUT,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ValueError(f"{where}: no answer: {error or type(error).__name__}") from error
    if not answer.is_success:
        raise ValueError(f"{where}: says {answer.status_code}: {answer.text[:300]}")
    try:
        said = answer.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{where}: its answer is not in OpenAI's format: {answer.text[:300]}") from error
    if not said:
        raise ValueError(f"{where}: its answer is empty")
