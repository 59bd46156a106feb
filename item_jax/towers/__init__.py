"""CLIP towers: the architecture, the files it is read from, and reading them."""
