"""Errors, configuration, files, locks and the machine; imports no torch."""
