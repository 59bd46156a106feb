"""Grounds the captions of a folder of images; the program is `item_sidecars.ground`.

    python scripts/ground.py --images data/images --out data/objects \\
        --captions data/captions/captions.jsonl
"""

import sys

try:
    import item_sidecars  # noqa: F401
except ModuleNotFoundError:  # a checkout that is not installed
    import sidecars  # noqa: F401  (takes the name item_sidecars)

from item_sidecars.ground import main

if __name__ == "__main__":
    sys.exit(main())
