"""Figures for print: files, captions, layout, and patterns that are legible without colour."""
