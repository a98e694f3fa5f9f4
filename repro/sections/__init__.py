"""A folder for each section of the paper, as far as it needs them: run (the table), figures, words, claims"""
