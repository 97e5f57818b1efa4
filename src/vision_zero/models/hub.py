"""Files of a model on the Hub, each asked for once and within a time; libraries would ask for minutes."""

import difflib
import math
import os
import re
import sys
import threading
from collections.abc import Callable
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import huggingface_hub as hub
from huggingface_hub import constants, errors

HUB_SECONDS = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or 6)
"""For a small file, and for more of a large one. A server that drips its bytes is not waited for longer."""
WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.index.json")
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
    cached, no_folder = hub.try_to_load_from_cache(name, file), _no_folder(name)
    advice = f"without a network give a folder (`hf download {name} --local-dir FOLDER` makes it where there is one)"
    if constants.is_offline_mode():
        if isinstance(cached, str) or isinstance(hub.try_to_load_from_cache(name, "config.json"), str):
            return Path(cached) if isinstance(cached, str) else None
        raise ValueError(
            f"{no_folder}, nor such a model in the Hub's cache, and HF_HUB_OFFLINE is set: unset it, or {advice}"
        )
    answer = _in_time(lambda: _fetch(name, file))
    if isinstance(answer, Path):
        return answer
    status = answer.response.status_code if isinstance(answer, errors.HfHubHTTPError) else 0
    if isinstance(answer, errors.EntryNotFoundError) and not isinstance(answer, errors.LocalEntryNotFoundError):
        return None
    if isinstance(answer, errors.GatedRepoError) or status == 403:
        accept = f"accept its terms at {constants.ENDPOINT}/{name}, then log in: `hf auth login`, or HF_TOKEN"
        raise ValueError(f"{no_folder}, and the model of that name on the Hub is gated: {accept}") from answer
    if isinstance(answer, errors.RepositoryNotFoundError) or status in (401, 404):
        check = "check the name; one that is private or gated needs a login: `hf auth login`, or HF_TOKEN"
        raise ValueError(f"{no_folder}, nor such a model on the Hub ({constants.ENDPOINT}): {check}") from answer
    if not isinstance(cached, str):
        raise ValueError(f"{no_folder}, and {_unreached(answer)}; {advice}, or HF_ENDPOINT with a mirror") from answer
    _go_offline(name, answer)
    return Path(cached)


@cache
def folder_of_hub(name: str) -> Path:
    """The folder in the Hub's cache that has all files of the model OWNER/NAME but its weights, now if not before.

    What a library then looks for is there, so that it needs no Hub. Raises ValueError as `file_of_hub`, also for a Hub
    of which nothing more comes, unless the cache has the weights too: then the model was fetched whole.
    """
    config = file_of_hub(name, "config.json")
    assert config is not None, "its config.json is checked first"
    folder, blobs, files = config.parent, config.parents[2] / "blobs", list[Path]()
    if constants.is_offline_mode():
        return folder

    def fetch() -> None:
        constants.DOWNLOAD_CHUNK_SIZE = 1 << 17  # what is written at once: with its 10 MB no progress would be seen
        for one in hub.HfApi().model_info(name, timeout=HUB_SECONDS).siblings or []:
            if not any(fnmatch(one.rfilename, pattern) for pattern in WEIGHT_PATTERNS):
                files.append(_fetch(name, one.rfilename))

    def progress() -> float:
        try:
            return len(files) + sum(file.stat().st_size for file in blobs.iterdir())
        except FileNotFoundError:  # one that was just renamed, as it is whole
            return math.nan

    answer = _in_time(fetch, progress)
    if isinstance(answer, Exception):
        if not any(folder.glob("*.safetensors")):
            longer = "HF_HUB_ETAG_TIMEOUT=SECONDS waits longer"
            raise ValueError(f"model {name}: {_unreached(answer)}; {longer}") from answer
        _go_offline(name, answer)
    return folder


def _fetch(name: str, file: str) -> Path:
    hub.get_hf_file_metadata(hub.hf_hub_url(name, file), timeout=HUB_SECONDS)  # alone, a download would try again
    return Path(hub.hf_hub_download(name, file))


def _in_time(action: Callable[[], Any], progress: Callable[[], float] = lambda: 0) -> Any:
    """What `action` returns or raises, or a TimeoutError once `progress` has stood still for HUB_SECONDS."""
    found: list[Any] = []

    def act() -> None:
        try:
            found.append(action())
        except Exception as error:
            found.append(error)

    thread, reached = threading.Thread(target=act, daemon=True), -1.0
    thread.start()
    while thread.is_alive() and reached != (reached := progress()):
        thread.join(HUB_SECONDS)
    return found[0] if found else TimeoutError(f"no whole answer within {HUB_SECONDS:g} s")


def _unreached(error: Exception) -> str:
    return f"{constants.ENDPOINT} cannot be reached: {(str(error).strip() or type(error).__name__).splitlines()[0]}"


def _go_offline(name: str, error: Exception) -> None:
    """This process asks the Hub no more, and one line says so."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{_unreached(error)}; {name} is taken from the Hub's cache", file=sys.stderr)
    constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"] = True, "1"
