"""Probes under several labels."""
