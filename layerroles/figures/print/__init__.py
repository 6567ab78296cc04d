"""Figures at their size in a paper: files, captions, and what each needs to be read in grey."""
