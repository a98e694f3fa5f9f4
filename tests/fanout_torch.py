"""A task for test_fanout.py whose module imports torch, as real tasks' modules do."""

import os
from pathlib import Path

import torch


def threads(folder, name):
    """Say how many threads torch has here, and which GPU."""
    (Path(folder) / name).write_text(f"{torch.get_num_threads()} {os.environ.get('CUDA_VISIBLE_DEVICES')}")
