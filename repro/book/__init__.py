"""The book: notebook runner, numbers and figures of its pages, build, computed parts of README."""
