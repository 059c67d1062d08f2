"""Every id in the inventory leads back to what it stands for, whatever else is on disk."""

from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmx.catalog.locate import locate
from lmx.catalog.scan import Inventory
from lmx.catalog.specs import parse_spec
from lmx.errors import LmxError
from tests.model_folders import CONFIG, make_mlx, write
from tests.raw_gguf import RawGguf

NAMES = st.sampled_from(
    ["m", "m-GGUF", "Q8_0", "q4_k_m", "a--b", "m@q8_0", "demo", "x.gguf", " m", "m:Q4_0", "org"]
)
FILES = st.sampled_from(
    ["m.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "UD-Q8_0.gguf", "M-Q8_0.GGUF", "mlx", "config"]
)
ROOTS = st.sampled_from(["lmx/models", "models", ".lmstudio/models", "extra", "hub"])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(ROOTS, st.lists(NAMES, max_size=3), FILES), max_size=8))
def test_every_id_leads_back(
    tmp_path_factory: pytest.TempPathFactory, tree: list[tuple[str, list[str], str]]
) -> None:
    """Whatever lies where: `locate` finds what was listed by its id, or nothing if it is broken."""
    user = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(user))
        patch.delenv("HF_HOME", raising=False)
        patch.delenv("HF_HUB_CACHE", raising=False)
        for root, names, file in tree:
            make_entry(user, root, names, file)
        folders = [f"{user}/extra"]
        scan = Inventory(user / "lmx", folders).scan()
        for row in scan.rows:
            with nullcontext() if row.status == "complete" else suppress(LmxError):
                found = locate(parse_spec(row.id), user / "lmx", folders)
                assert (row.format, row.path) == (found.format, found.path)
    assert len(scan.rows) == len({row.id for row in scan.rows})
    is_complete = any(row.status == "complete" for row in scan.rows)
    assert any(file != "config" for *_, file in tree) == is_complete


def make_entry(user: Path, root: str, names: list[str], file: str) -> None:
    """One file or MLX directory of the property's tree."""
    if root == "hub":
        repository = "--".join(names or ["m"])
        folder = user / f".cache/huggingface/hub/models--{repository}"
        write(folder / "refs/main", "abc")
        folder /= "snapshots/abc"
    else:
        folder = user.joinpath(root, *names)
    if file == "mlx":
        make_mlx(folder)
    elif file == "config":
        write(folder / "config.json", CONFIG)
    elif not (folder / file).is_dir():
        RawGguf().write(folder / file)
