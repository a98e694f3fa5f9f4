"""Files of a repository of the Hugging Face hub, and the sentences for what keeps them away."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

from repro.base.errors import BadInput, optional


def snapshot(
    repo: str,
    allow: Sequence[str],
    command: str,
    instead: str,
    wanted: str = "",
    revision: str | None = None,
    ignore: Sequence[str] = (),
    force: bool = False,
) -> Path:
    """Download the files of `repo` that match the patterns of `allow`, or find them in the hub's cache -> their folder.

    `force` downloads again what is there. Raises BadInput with the fix: no access, no such revision, a full disk, or
    no network, where `command` fetches `wanted` (the repository if not given) and `instead` is what else helps.
    """
    with optional():
        from huggingface_hub import errors, snapshot_download
    try:
        folder = snapshot_download(
            repo, revision=revision, allow_patterns=list(allow), ignore_patterns=list(ignore), force_download=force
        )
    except errors.GatedRepoError:
        raise BadInput(
            f"{repo} is gated: accept its licence at https://huggingface.co/{repo} and give a token of that account in "
            "HF_TOKEN (or `hf auth login`)."
        ) from None
    except errors.RevisionNotFoundError:
        raise BadInput(
            f"{repo} has no revision '{revision}' on the hub; see https://huggingface.co/{repo}/commits."
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise BadInput(
            f"No repository '{repo}' on the hub that this account may read: check the name, or set HF_TOKEN."
        ) from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise BadInput(
                f"The hub cache has no room for {repo}: make room, or set HF_HOME to another disk."
            ) from None
        raise not_here(wanted or repo, type(error).__name__, command, instead) from None
    return Path(folder)


def not_here(wanted: str, why: str, command: str, instead: str) -> BadInput:
    """The error for files that neither the hub's cache nor the network has."""
    return BadInput(
        f"{wanted} is not in the local hub cache and cannot be fetched ({why}): run `{command}` once with a network "
        f"(HF_HUB_OFFLINE unset), or {instead}."
    )
