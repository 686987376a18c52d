"""`fedmb version`: which fedmb this is."""

from fedmb import __version__


def version() -> None:
    """Print fedmb's version."""
    print(__version__)
