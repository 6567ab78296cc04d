"""Figures for print: files, captions, layout, and heat maps and hatching as vector shapes."""
