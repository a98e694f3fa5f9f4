"""What everything else stands on: errors, configuration, files, the machine. No torch at import."""
