"""The report: figure theme, strict notebook runner, and what turns executed notebooks into the book."""
