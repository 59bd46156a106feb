"""Captions a folder of images; the program is `item_sidecars.caption`.

python scripts/caption.py --images data/images --out data/captions
"""

import sys

try:
    import item_sidecars  # noqa: F401
except ModuleNotFoundError:  # a checkout that is not installed
    import sidecars  # noqa: F401  (takes the name item_sidecars)

from item_sidecars.caption import main

if __name__ == "__main__":
    sys.exit(main())
