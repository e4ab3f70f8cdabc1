"""Prints what pyproject.toml asks for, one requirement a line, for `pip install -r`.

    python tools/requirements.py build cli test

`build` is the build system's requirements; every other word is the name of an extra.
"""

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:  # pip is in every virtual environment and carries a copy
    from pip._vendor import tomli as tomllib


def main(names: list[str]) -> None:
    path = Path(__file__).resolve().parent.parent / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    for name in names:
        wanted = project["build-system"]["requires"] if name == "build" else extras[name]
        print("\n".join(wanted))


if __name__ == "__main__":
    main(sys.argv[1:])
