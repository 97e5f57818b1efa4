"""A file of a model on the Hub, asked for once and within a time, before libraries ask for dozens, each many times."""

import difflib
import os
import re
import sys
import threading
from functools import cache
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

HUB_SECONDS = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or 6)
"""For a file of a few kB. A server that drips its bytes is not waited for longer."""
OWNER_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def check_place(name: str) -> None:
    """Raises ValueError for a path where nothing is and that is no OWNER/NAME of the Hub."""
    if not Path(name).exists() and not OWNER_NAME.fullmatch(name):
        raise ValueError(f"{_no_folder(name)}; give a run, checkpoint or model folder, or OWNER/NAME of the Hub")


def _no_folder(name: str) -> str:
    path = Path(name).expanduser()
    others = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    near = [path] if path.exists() else [path.parent / one for one in difflib.get_close_matches(path.name, others, 1)]
    return f"model {name}: there is no such folder" + "".join(f" (is it {one}?)" for one in near)


@cache
def file_of_hub(name: str, file: str) -> Path | None:
    """A small file of the model OWNER/NAME, from the Hub or its cache; None: the model has none.

    When the Hub cannot be reached and the cache has the file, one line says so and this process asks the Hub no more.
    Raises ValueError when there is no such model, when it needs a login, and when that cannot be known.
    """
    cached, no_folder = try_to_load_from_cache(name, file), _no_folder(name)
    advice = f"without a network give a folder (`hf download {name} --local-dir FOLDER` makes it where there is one)"
    if constants.is_offline_mode():
        if isinstance(cached, str) or isinstance(try_to_load_from_cache(name, "config.json"), str):
            return Path(cached) if isinstance(cached, str) else None
        raise ValueError(
            f"{no_folder}, nor such a model in the Hub's cache, and HF_HUB_OFFLINE is set: unset it, or {advice}"
        )
    found: list[Path | Exception] = []

    def fetch() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(name, file), timeout=HUB_SECONDS)  # alone, a download would try again
            found.append(Path(hf_hub_download(name, file)))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    answer = found[0] if found else TimeoutError(f"no whole answer within {HUB_SECONDS:g} s")
    if isinstance(answer, Path):
        return answer
    status = answer.response.status_code if isinstance(answer, HfHubHTTPError) else 0
    if isinstance(answer, EntryNotFoundError) and not isinstance(answer, LocalEntryNotFoundError):
        return None
    if isinstance(answer, GatedRepoError) or status == 403:
        accept = f"accept its terms at {constants.ENDPOINT}/{name}, then log in: `hf auth login`, or HF_TOKEN"
        raise ValueError(f"{no_folder}, and the model of that name on the Hub is gated: {accept}") from answer
    if isinstance(answer, RepositoryNotFoundError) or status in (401, 404):
        check = "check the name; one that is private or gated needs a login: `hf auth login`, or HF_TOKEN"
        raise ValueError(f"{no_folder}, nor such a model on the Hub ({constants.ENDPOINT}): {check}") from answer
    reason = f"{constants.ENDPOINT} cannot be reached: {(str(answer).strip() or type(answer).__name__).splitlines()[0]}"
    if not isinstance(cached, str):
        raise ValueError(f"{no_folder}, and {reason}; {advice}, or HF_ENDPOINT with a mirror") from answer
    if os.environ.get("RANK", "0") == "0":
        print(f"{reason}; {name} is taken from the Hub's cache", file=sys.stderr)
    constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"] = True, "1"
    return Path(cached)
