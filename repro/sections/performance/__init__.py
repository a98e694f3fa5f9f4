"""Timings, faults and scale."""
