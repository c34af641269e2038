"""The models of a run: clinical, image, morphometry and their combinations."""
