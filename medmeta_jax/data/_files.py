"""Files that are not trusted: what is asked of one is at most what it holds."""

from __future__ import annotations

import io
from pathlib import Path


class Within(io.BufferedReader):
    """A file open for reading, of which no more bytes are ever asked for than are left.

    Python sets aside as many bytes as a `read` asks for before it reads; a length field of a
    damaged header asks for gigabytes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.end = path.stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes, all that are left where it is negative or None."""
        left = max(0, self.end - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))
