"""Where on disk a model is. Looks at directories, so it runs off the event loop.

Ids are looked for below ``LMX_HOME/models``, ``~/models`` and the Hugging Face cache, in that
order. Nothing is opened: whether the files are sound is the engine's to say.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmx.errors import CorruptModel, ModelNotFound

CONFIG_FILE = "config.json"


def locate_directory(source: str) -> Path:
    """Check a path that a person gave.

    Raises:
        ModelNotFound: There is no such directory.
        CorruptModel: It is there but holds no model, or the system refuses to look.
    """
    path = Path(source).expanduser().absolute()
    with _reading(path):
        is_directory, is_model = path.is_dir(), (path / CONFIG_FILE).is_file()
    if not is_directory:
        raise ModelNotFound(f"there is no directory {path}", param="model")
    if not is_model:
        raise CorruptModel(f"{path} has no {CONFIG_FILE}: it is no model directory")
    return path


def locate_gguf(source: str) -> Path:
    """Check the path of a GGUF file.

    Raises:
        ModelNotFound: There is no such file.
        CorruptModel: The system refuses to look.
    """
    path = Path(source).expanduser().absolute()
    with _reading(path):
        is_file = path.is_file()
    if not is_file:
        raise ModelNotFound(f"there is no file {path}", param="model")
    return path


def locate_id(model_id: str, home: Path) -> Path:
    """Find the directory of a model id.

    Raises:
        ModelNotFound: It is in none of the places; the message lists them.
        CorruptModel: The system refuses to look.
    """
    with _reading(model_id):
        for candidate in _candidates(model_id, home):
            if (candidate / CONFIG_FILE).is_file():
                return candidate
        if (Path(model_id) / CONFIG_FILE).is_file():
            return Path(model_id).absolute()
    raise ModelNotFound(
        f"{model_id} is not on disk: it is neither a directory, nor below {home / 'models'} or "
        "~/models, nor in the Hugging Face cache",
        param="model",
    )


@contextmanager
def _reading(source: Path | str) -> Iterator[None]:
    """No permission, a name too long and the like: as final as a file that is damaged."""
    try:
        yield
    except OSError as error:
        raise CorruptModel(f"{source} cannot be read: {error.strerror}") from error


def _candidates(model_id: str, home: Path) -> Iterator[Path]:
    # An id is never a way out of the folders it is looked for in.
    if not model_id.startswith("/") and ".." not in Path(model_id).parts:
        yield home / "models" / model_id
        yield Path.home() / "models" / model_id
    cache = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser() / "hub"
    repository = cache / ("models--" + model_id.replace("/", "--"))
    reference = repository / "refs" / "main"
    if reference.is_file():
        yield repository / "snapshots" / reference.read_text().strip()
