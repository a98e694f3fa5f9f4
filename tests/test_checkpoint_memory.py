"""Reading a checkpoint of a real size costs little more memory than the SAE itself."""

import os
import subprocess
import sys

import pytest
import torch

from repro.checkpoints import save_dictionary_learning, save_sae
from repro.sae import TopK

READ = """
import json, sys, time
import torch
from repro.checkpoints import load_sae
load_sae(sys.argv[2])  # import everything first
def memory(key):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(key)) * 1024
before = memory("VmRSS")
with open("/proc/self/clear_refs", "w") as f:
    f.write("5")  # forget the peak so far
start = time.perf_counter()
sae = load_sae(sys.argv[1])
print(json.dumps({"extra": memory("VmHWM") - before, "seconds": time.perf_counter() - start}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["dictionary_learning", "own", "npz"])
def test_reading_16k_x_2304_costs_less_than_a_fifth_more_than_the_file(kind, tmp_path):
    import json

    import numpy as np

    sizes = {"big": (2304, 16384), "small": (4, 8)}
    paths = {}
    for name, (d, m) in sizes.items():
        sae = TopK(TopK.Config(d, m, k=4)).requires_grad_(False)
        sae.W_enc.normal_()
        sae.W_dec.normal_().div_(sae.W_dec.norm(dim=1, keepdim=True))
        if kind == "dictionary_learning":
            paths[name] = save_dictionary_learning(sae, tmp_path / name)
        elif kind == "own":
            paths[name] = save_sae(sae, tmp_path / name)
        else:
            paths[name] = tmp_path / name / "params.npz"
            paths[name].parent.mkdir()
            arrays = {k: getattr(sae, k).numpy() for k in ("W_enc", "W_dec", "b_enc", "b_dec")}
            np.savez(paths[name], threshold=torch.ones(m).numpy(), **arrays)
        del sae
    command = [sys.executable, "-c", READ, str(paths["big"]), str(paths["small"])]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    size = paths["big"].stat().st_size
    print(f"{kind}: {told['extra'] / size:.2f} x the file of {size / 2**20:.0f} MiB, {told['seconds']:.2f} s")
    assert told["extra"] < 1.2 * size
