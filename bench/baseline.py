"""The yardstick for one large file, written by hand: `python -m bench.baseline URL SHA256 FILE`.

It downloads, hashes, writes and flushes, in one process. Nothing is compressed, recorded or read back: this is what the bare work
costs in the same language.
"""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.request
from pathlib import Path

CHUNK_BYTES = 1024 * 1024


def main() -> int:
    url, sha256, path = sys.argv[1:4]
    digest, chunk = hashlib.sha256(), memoryview(bytearray(CHUNK_BYTES))
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url) as answer, Path(path).open("wb", buffering=0) as out:
        while size := answer.readinto(chunk):
            digest.update(chunk[:size])
            out.write(chunk[:size])
        os.fsync(out.fileno())
    return 0 if digest.hexdigest() == sha256 else 1


if __name__ == "__main__":
    sys.exit(main())
