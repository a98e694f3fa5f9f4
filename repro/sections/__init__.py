"""A folder for each section of the book, as far as it needs them: run (the table), figures, words, claims"""
