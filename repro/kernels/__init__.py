"""Compiled and fused kernels, one operation a file, each beside its plain twin."""
