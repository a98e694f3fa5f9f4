"""One reader for each library's checkpoints."""
