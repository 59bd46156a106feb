"""The reference of the package: pages of all public names, from their docstrings.

pip install pdoc
python scripts/reference.py --out api
"""

from __future__ import annotations

import argparse
from pathlib import Path

import item_jax


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("api"), help="default: api/")
    arguments = parser.parse_args()
    import pdoc

    for name in item_jax.__all__:  # loaded when first used; pdoc looks and does not ask
        vars(item_jax)[name] = getattr(item_jax, name)
    pdoc.render.configure(docformat="google")
    # By name, pdoc warns of a folder of that name in the working directory.
    installed = Path(item_jax.__file__).parent
    pdoc.pdoc(installed, output_directory=arguments.out)


if __name__ == "__main__":
    main()
