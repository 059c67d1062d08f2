"""Asking a hub: what is in a repository, and where its files are.

Through huggingface_hub, so that its variables (`HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`), its
stored token and mirrors of the hub work as everywhere. What the hub says is not trusted further
than needed: paths must stay inside a directory, and every file needs a length and a digest.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import get_session
from huggingface_hub.utils._paths import filter_repo_objects

from lmx.catalog.manifest import PARTIAL
from lmx.catalog.mlx_files import WEIGHTS_SUFFIX
from lmx.errors import (
    CorruptModel,
    HubUnreachable,
    InvalidRequest,
    LmxError,
    ModelNotFound,
    RepositoryGated,
)
from lmx.jobs.choice import choose_files
from lmx.protocol.jobs import DownloadPlan, PlannedFile, PlanOrder

T = TypeVar("T")

# Of one question; clients give a load ten seconds, of which this is one part.
ASK_TIMEOUT_S = 4.0
ATTEMPTS = 2
PAUSE_S = 0.5
SHA256 = re.compile(r"[0-9a-f]{64}")
SHA1 = re.compile(r"[0-9a-f]{40}")


class Hub:
    """One hub, as far as this machine's token opens it.

    Args:
        endpoint: Its address; `None` for what `HF_ENDPOINT` says, else the public one.
        token: What opens it; `None` for what is set or stored for huggingface_hub, empty for none.
    """

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        self._token: str | bool | None = False if token == "" else token
        self._api = HfApi(endpoint=endpoint, token=self._token)

    def plan(self, order: PlanOrder) -> DownloadPlan:
        """Ask what a repository holds and choose from it.

        Raises:
            ModelNotFound: There is no such repository or revision, or it is private.
            RepositoryGated: Its owner has not let this token in.
            HubUnreachable: The hub does not answer, or with nothing that helps.
            UnsupportedModel: Nothing in it can be loaded here.
            InvalidRequest: The name is none, or the patterns leave nothing.
            CorruptModel: Its list of files cannot be right.
        """
        info = self._ask(
            order,
            lambda: self._api.model_info(
                order.repo_id, revision=order.revision, files_metadata=True, timeout=ASK_TIMEOUT_S
            ),
        )
        commit = info.sha or ""
        if not SHA1.fullmatch(commit):
            raise HubUnreachable(f"{self._api.endpoint} names no commit for {order.repo_id}")
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
        choice = choose_files(sorted(siblings), order, _matches)
        missing = [path for path in choice.paths if path not in siblings]
        if missing:
            raise CorruptModel(f"{order.repo_id} lacks {missing[0]}")
        files = []
        for path in choice.paths:
            _check_path(path)
            file = _as_listed(siblings[path])
            files.append(file or self._ask_for(order, path, commit))
        return DownloadPlan(
            repo_id=order.repo_id,
            commit=commit,
            stored_as=choice.stored_as,
            files=tuple(files),
            weights=tuple(sorted(path for path in siblings if path.endswith(WEIGHTS_SUFFIX))),
        )

    def url(self, plan: DownloadPlan, path: str) -> str:
        """Where a file of exactly the planned commit is."""
        return self._url(plan.repo_id, path, plan.commit)

    @property
    def headers(self) -> dict[str, str]:
        """What goes with every request for a file: the token, if there is one."""
        # Identity, because a range of a compressed body would not continue the file.
        return {
            **build_hf_headers(token=self._token, library_name="lmx"),
            "accept-encoding": "identity",
        }

    @property
    def client(self) -> httpx2.Client:
        """What huggingface_hub asks with; it follows redirects."""
        return get_session()

    def _url(self, repo_id: str, path: str, commit: str) -> str:
        return hf_hub_url(repo_id, path, revision=commit, endpoint=self._api.endpoint)

    def _ask(self, order: PlanOrder, question: Callable[[], T]) -> T:
        """One question to the hub, once more if it may have been bad luck."""
        for attempt in range(ATTEMPTS):
            try:
                return question()
            except HFValidationError as error:
                raise InvalidRequest(
                    f"{order.repo_id!r} names no repository", param="repo_id"
                ) from error
            except (HfHubHTTPError, httpx2.HTTPError, OfflineModeIsEnabled) as error:
                refusal = _explain(order, error, self._api.endpoint)
                if not isinstance(refusal, HubUnreachable) or attempt == ATTEMPTS - 1:
                    raise refusal from error
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise HubUnreachable(
                    f"{self._api.endpoint} says what no hub says: {error}"
                ) from error
            time.sleep(PAUSE_S)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _ask_for(self, order: PlanOrder, path: str, commit: str) -> PlannedFile:
        """Length and digest of a file of which the list does not tell, as some mirrors' do not."""
        url = self._url(order.repo_id, path, commit)
        found = self._ask(
            order,
            lambda: get_hf_file_metadata(
                url, timeout=ASK_TIMEOUT_S, headers=self.headers, endpoint=self._api.endpoint
            ),
        )
        etag = found.etag or ""
        file = PlannedFile(
            path,
            found.size or 0,
            sha256=etag if SHA256.fullmatch(etag) else "",
            git_sha1=etag if SHA1.fullmatch(etag) else "",
        )
        if found.size is None or not is_checkable(file):
            raise HubUnreachable(f"the hub names neither length nor digest of {path}")
        return file


def is_checkable(file: PlannedFile) -> bool:
    """Whether a file's content can be verified."""
    return bool(SHA256.fullmatch(file.sha256) or SHA1.fullmatch(file.git_sha1))


def _as_listed(sibling: RepoSibling) -> PlannedFile | None:
    """A file as a repository's list describes it, if it does."""
    if sibling.size is None:
        return None
    if sibling.lfs is None:
        file = PlannedFile(sibling.rfilename, sibling.size, git_sha1=sibling.blob_id or "")
    else:  # its blob is that of a pointer to the content
        file = PlannedFile(sibling.rfilename, sibling.size, sha256=sibling.lfs.sha256)
    return file if is_checkable(file) else None


def _explain(order: PlanOrder, error: Exception, hub: str) -> LmxError:
    """Why the hub gives nothing, as an error that a person can act on."""
    repo_id = order.repo_id
    if isinstance(error, GatedRepoError | DisabledRepoError):
        return RepositoryGated(
            f"{repo_id} is gated: accept its terms at {hub}/{repo_id} and give LMX a token of that "
            "account, as HF_TOKEN or with `hf auth login`"
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFound(f"{repo_id} has no revision {order.revision!r}", param="revision")
    if isinstance(error, RepositoryNotFoundError):
        return ModelNotFound(
            f"there is no repository {repo_id} at {hub}, or it is private", param="repo_id"
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in {401, 403}:
            return RepositoryGated(f"{hub} refuses {repo_id} with status {status}: {_said(error)}")
        return HubUnreachable(f"{hub} answers with status {status}")
    return HubUnreachable(f"{hub} cannot be reached: {_said(error)}")


def _said(error: Exception) -> str:
    """The first line of what an error says, or its name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _matches(paths: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return list(filter_repo_objects(paths, allow_patterns=list(patterns)))


def _check_path(path: str) -> None:
    """A name from the network never leads out of the directory it is meant for.

    Raises:
        CorruptModel: It would.
    """
    parts = PurePosixPath(path).parts
    is_plain = str(PurePosixPath(path)) == path and not path.startswith("/")
    is_odd = ".." in parts or "\\" in path or "\0" in path or PARTIAL in path
    if not is_plain or is_odd or any(part.startswith(".") for part in parts):
        raise CorruptModel(f"the repository names a file {path!r}, which is no place for one")
