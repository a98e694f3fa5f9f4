"""What surrounds a run: this interpreter as the kernel, the kernel's peak memory, the machine in a few words."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from repro.base.machine import processor


@contextlib.contextmanager
def own_kernel() -> Iterator[None]:
    """Let kernel name python3 mean this very interpreter, whatever kernels the machine has installed.

    The kernel draws plotly as JSON even if a notebook forgets use_theme(), stays off the hub unless told otherwise,
    and does not print ipykernel's note about TCP, which would otherwise stand in every notebook.
    """
    with tempfile.TemporaryDirectory(prefix="repro-kernel-") as folder:
        spec, profile = Path(folder, "kernels", "python3"), Path(folder, "ipython", "profile_default")
        spec.mkdir(parents=True)
        profile.mkdir(parents=True)
        (profile / "ipython_kernel_config.py").write_text("c = get_config()\nc.IPKernelApp.log_level = 40\n")
        env = {
            "IPYTHONDIR": str(profile.parent),
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
            "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
            "PLOTLY_RENDERER": "plotly_mimetype",
        }
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        kernel = {"argv": argv, "display_name": "Python 3", "language": "python", "env": env}
        (spec / "kernel.json").write_text(json.dumps(kernel))
        before = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [folder, before]))  # searched first
        try:
            yield
        finally:
            if before is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = before


@contextlib.contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Watch the child processes: the yielded list holds the largest sum of their resident memory so far, in MB."""
    import psutil

    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not stop.wait(0.2):
            total = 0
            for child in me.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += child.memory_info().rss
            peak[0] = max(peak[0], float(round(total / 1e6)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def machine() -> str:
    """The computer in a few words: processor, cores that this process may use, memory, system."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = round(psutil.virtual_memory().total / 2**30)
    return f"{processor()}, {cores} cores, {memory} GiB, {platform.system()} {platform.release()}"
