"""A JupyterLab of its own in Chromium: notebooks opened in it and run to their end from the Run menu."""

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from chromium import CHROMIUM, FLAGS

from repro.book.kernel import own_kernel

READY = (
    "(s => s?.isReady && s.session?.kernel?.connectionStatus === 'connected' && s.session.kernel.status === 'idle')"
    "(window.jupyterapp?.shell.currentWidget?.sessionContext)"
)
IDLE = (  # no cell waits either: the indicator is idle for a moment while a kernel starts
    "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'"
    " && ![...document.querySelectorAll('.jp-InputPrompt')].some(p => p.innerText.includes('*'))"
)
SETTINGS = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR")


@contextlib.contextmanager
def served_lab(folder: Path, work: Path, **env: str) -> Iterator[str]:
    """Address, with its token, of a JupyterLab for the notebooks in `work`; shares no setting with the user's own."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token = secrets.token_hex(16)
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": work,
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    quiet = folder / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with own_kernel(), open(folder / "server.log", "w") as log:
        own = {name: str(folder / name.lower()) for name in (*SETTINGS, "JUPYTERLAB_WORKSPACES_DIR")}
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *flags]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | own | env
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=work)
        try:
            home = f"http://127.0.0.1:{port}"
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{home}/api?token={token}", timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None, (folder / "server.log").read_text()
                    time.sleep(0.5)
            yield f"{home}/lab/tree/{{}}?token={token}&reset"
        finally:
            server.terminate()
            server.wait(30)


@contextlib.contextmanager
def lab_tab(address: str, width: int, height: int):
    """A tab that cannot leave this machine; tab.wrong collects what its console complains about."""
    from playwright.sync_api import sync_playwright

    home = "/".join(address.split("/")[:3])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(viewport={"width": width, "height": height})
        context.route(re.compile(rf"^(?!{re.escape(home)}|data:|blob:)http"), lambda route: route.abort())
        tab, wrong = context.new_page(), []
        tab.wrong = wrong
        tab.on("pageerror", lambda error: wrong.append(f"page error: {error}"))
        tab.on("console", lambda m: m.type == "error" and wrong.append(f"console: {m.text} {m.location}"))
        yield tab
        context.close()
        browser.close()


def run_all(tab, address: str, name: str, seconds: float = 200) -> None:
    """Open a notebook, run all of its cells from the menu and wait until the kernel has nothing left to do."""
    tab.goto(address.format(f"{name}.ipynb"), timeout=120_000)
    tab.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    tab.wait_for_function(READY, timeout=120_000)  # a run that is asked for before is forgotten
    tab.evaluate("void window.jupyterapp.commands.execute('runmenu:run-all')")
    tab.wait_for_function(f"!({IDLE})", timeout=20_000)
    tab.wait_for_function(IDLE, timeout=1000 * seconds)
    tab.wait_for_timeout(500)
