"""Weights by their name on the Hugging Face hub: which setting is a name, what is downloaded, and why it cannot be."""

import re
from collections.abc import Sequence
from pathlib import Path

from dsd.errors import UserError, causes

REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def names_repo(path: str) -> bool:
    """Tell whether a setting is a repository's name, user/name. A path wins where it, or its first folder, is here."""
    is_file = path.endswith(".safetensors")
    return bool(REPO.fullmatch(path)) and not is_file and not Path(path).parent.exists()


def fetched(key: str, repo: str, file: str, patterns: Sequence[str]) -> Path:
    """Download the files of a repository that match `patterns`, or find them in the cache; return their folder.

    UserError where the repository is absent or gated or lacks `file`, or where the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, allow_patterns=list(patterns)))
    except Exception as error:  # those of the client have no common class
        reason = refusal(repo, error)
        if reason is None:
            raise
        raise UserError(f"{key}={repo}: {reason}") from error
    if not (folder / file).is_file():
        raise UserError(f"{key}={repo}: the repository has no {file}; name one that has it, or give a path")
    return folder


def refusal(repo: str, error: BaseException) -> str | None:
    """Say why the hub did not give a repository, and the remedy; None where the error is another one."""
    from huggingface_hub import constants, errors

    chain, page = list(causes(error)), f"{constants.ENDPOINT}/{repo}"
    unreachable = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError)

    def found(*classes: type[BaseException]) -> bool:
        return any(isinstance(cause, classes) for cause in chain)

    if found(errors.GatedRepoError):
        return f"its authors ask for your consent: accept their terms at {page}, and set HF_TOKEN to your token"
    if found(errors.RepositoryNotFoundError):
        return f"no such folder here, and no such repository at {page}; a private one needs HF_TOKEN"
    if found(*unreachable) or any("Connect" in type(cause).__name__ for cause in chain):
        offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        return (
            f"no such folder here, and it is not in the cache; the hub cannot be reached{offline}; download it where "
            "there is a network"
        )
    return None
