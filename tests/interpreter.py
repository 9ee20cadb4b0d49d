"""Programs that look modules up with whatever Python they find find the one that runs the tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def where_python_is_this_one() -> dict[str, str]:
    """The environment, with this Python the first on PATH.

    pyright looks modules up with that one: its language server by itself, and ``--verifytypes``
    since it passes over ``--pythonpath``.
    """
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return os.environ | {"PATH": os.pathsep.join(path)}
