"""What the commands do, and the files that they write. Their flags are in flags.py and training_flags.py."""
