"""Makes torch unimportable, in a program and in all that it starts, when this folder is on PYTHONPATH."""

import sys

sys.modules["torch"] = None
