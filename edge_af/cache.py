"""The cache folder `~/.cache/edge-af`. Boards run this too, so it needs only the standard library."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path


def home() -> Path:
    """Return the cache folder, creating it if needed.

    An account without a home, as in a container with `--user`, gets one in the temporary folder.

    Raises:
        OSError: the folder cannot be created, or the temporary one belongs to another user.
    """
    places = []
    with contextlib.suppress(RuntimeError):  # The account has no home folder.
        places = [Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-af"]
    for folder in places:
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    folder = Path(tempfile.gettempdir()) / f"edge-af-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    # Another user may have created it, or put a link in its place.
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EACCES, "no home folder, and other users can access this one", str(folder))
    return folder
