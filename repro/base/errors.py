"""The one exception that means "your input is wrong, and here is the fix"."""

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class BadInput(ValueError):
    """Input that cannot be used. The message is one sentence that names the fix; the CLI prints it and exits 2."""


def nearest(word: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the closest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def missing_extra(package: str, extra: str) -> BadInput:
    """The error for an optional dependency that is not installed."""
    return BadInput(f"{package} is not installed: pip install 'repro[{extra}]' (or `make install` in a clone).")


EXTRAS = {
    "book": ("plotly", "papermill", "nbformat", "nbclient", "sphinx", "docutils", "myst_nb", "ipywidgets", "IPython"),
    "lm": ("transformers", "datasets", "huggingface_hub", "tokenizers", "accelerate", "gguf"),
    "cpu": ("numba",),
    "gpu": ("triton",),
    "cluster": ("dask", "distributed", "submitit"),
    "png": ("kaleido", "matplotlib"),
}
"""Packages that an extra of this one brings."""


def extra_for(error: BaseException) -> BadInput | None:
    """The error for a failed import of a package that belongs to an extra; None for any other."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return next((missing_extra(package, extra) for extra, packages in EXTRAS.items() if package in packages), None)


@contextmanager
def optional() -> Iterator[None]:
    """Imports of packages that extras bring: BadInput that names the extra where one is missing.

    A module that is missing for another reason (a wrong path, a broken installation) stays an ImportError.
    """
    try:
        yield
    except ImportError as error:
        missing = extra_for(error)
        if missing is None:
            raise
        raise missing from None


class TasksFailed(RuntimeError):
    """Some tasks failed for good; what they were part of is written, with the reasons in it."""


class NotebookFailed(RuntimeError):
    """A cell raised; the message is one line that names the cell, and the draft is kept for reading."""


def disk_full(error: BaseException) -> bool:
    """Does an exception say that no more can be written: full disk, quota, limit of a file's size?"""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True  # safetensors, pyarrow and torch say it in words only
    return any(words in str(error) for words in ("No space left", "File too large", "file write failed"))


def exhausted(error: BaseException | None) -> str:
    """The sentence for an exception that too little memory or too few open files caused; empty for any other."""
    threads = ("can't start new thread", "Failed to launch worker thread")  # which need room for a stack
    memory = ("allocate memory", "out of memory", "bad_alloc", "failed to map segment", *threads)
    while error is not None:
        number, text = getattr(error, "errno", None), str(error)
        if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text:
            return (
                "Too many files are open at once: raise the limit (ulimit -n) and run the same command again; what is "
                "finished is kept."
            )
        if isinstance(error, MemoryError) or number == errno.ENOMEM or any(words in text for words in memory):
            return (
                "Not enough memory: close other programs, lift the limit (ulimit -v) or lower the batch size, and run "
                "the same command again; what is finished is kept."
            )
        error = error.__cause__ or error.__context__
    return ""


def bad_path(error: BaseException) -> BadInput | None:
    """The sentence for a path that cannot be used as asked: no permission, a file where a folder is needed, …"""
    known = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
    if not isinstance(error, OSError) or not (isinstance(error, known) or error.errno == errno.EROFS):
        return None
    return BadInput(f"Cannot use {error.filename or 'a path'}: {error.strerror}; name another path.")
