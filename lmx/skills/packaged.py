"""What LMX's own skills get from the settings: whether they exist, and what they may touch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from lmx.config import SkillSettings
from lmx.skills.manifest import Manifest
from lmx.skills.reading import BUILTIN

READ_FILE = f"{BUILTIN}/read_file"
FETCH_URL = f"{BUILTIN}/fetch_url"
SEARCH_DOCUMENTS = f"{BUILTIN}/search_documents"


def is_builtin(manifest: Manifest) -> bool:
    """Whether a skill is LMX's own."""
    return manifest.namespace == BUILTIN


def grant(manifests: Iterable[Manifest], settings: SkillSettings) -> list[Manifest]:
    """Skills as the settings allow them."""
    folders = read_folders(settings)
    granted = []
    for manifest in manifests:
        if manifest.qualified_name == FETCH_URL and not settings.fetch_url:
            continue
        if manifest.qualified_name == READ_FILE:
            permissions = msgspec.structs.replace(manifest.permissions, files=tuple(folders))
            granted.append(msgspec.structs.replace(manifest, permissions=permissions))
        else:
            granted.append(manifest)
    return granted


def extra_arguments(
    manifest: Manifest, settings: SkillSettings, timeout_s: float
) -> dict[str, Any]:
    """What a built-in function is told beside what its caller says."""
    if manifest.qualified_name == READ_FILE:
        return {"folders": read_folders(settings)}
    if manifest.qualified_name == FETCH_URL:
        return {"timeout_s": timeout_s}
    return {}


def read_folders(settings: SkillSettings) -> list[str]:
    """The folders that `read_file` may read, absolute."""
    return [str(Path(folder).expanduser().absolute()) for folder in settings.read_folders]
