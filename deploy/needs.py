"""Prints what an image of fedmb installs, read from pyproject.toml: its dependencies but torch, and those of extras.

    python deploy/needs.py pyproject.toml rl fast > needs.txt

torch stays a dependency of the package, since whoever installs fedmb wants to train; servers and streams do not.
"""

import re
import sys
import tomllib
from pathlib import Path


def needs(pyproject: Path, extras: list[str]) -> list[str]:
    """Requirements, one a line of pip's."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    named = [one for extra in extras for one in project["optional-dependencies"][extra]]
    return [one for one in [*project["dependencies"], *named] if re.split(r"[^A-Za-z0-9_-]", one)[0] != "torch"]


if __name__ == "__main__":
    print(*needs(Path(sys.argv[1]), sys.argv[2:]), sep="\n")
