"""Figures at their printed size: files, captions, layout, and marks that can be read in grey."""
