"""Codes that are known: how many latents each inference mode finds."""
