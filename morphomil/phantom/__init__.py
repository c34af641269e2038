"""Synthetic H&E slides whose nuclei and group effect are known."""
