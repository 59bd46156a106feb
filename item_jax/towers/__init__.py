"""CLIP towers, one file per architecture; `load.py` reads checkpoints into them.

A file here offers `NAME`, `Config`, `configs_from`, `Model` and the key tables
`TABLES`, which say where each parameter stands in a checkpoint.
"""
