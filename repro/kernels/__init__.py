"""Compiled kernels of ops.py: reference.py in plain torch, cpu/ in numba, gpu/ in Triton."""
