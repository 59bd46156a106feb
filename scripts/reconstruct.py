"""Makes the error maps that DIRE reads; the program is `item_sidecars.reconstruct`.

python scripts/reconstruct.py --images data/images --out data/maps --model MODEL
"""

import sys

try:
    import item_sidecars  # noqa: F401
except ModuleNotFoundError:  # a checkout that is not installed
    import sidecars  # noqa: F401  (takes the name item_sidecars)

from item_sidecars.reconstruct import main

if __name__ == "__main__":
    sys.exit(main())
