"""The commands of the command line: their flags (flags.py, training_flags.py) and the files that they write."""
