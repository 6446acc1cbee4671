"""What the tests of the pool call in its processes."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from framemesh.errors import FramemeshError


def work(given: Any, data: bytes) -> tuple[Any, list[bytes]]:
    """Does what it is told."""
    print("this is no part of the wire")
    match given.get("how"):
        case "hang":
            time.sleep(600)
        case "spin":
            while True:
                pass
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "refuse":
            raise FramemeshError("file: not this one")
        case "fail":
            raise KeyError("no idea")
        case "flood":
            return {}, [bytes(300 << 20)]
        case "grow":
            return len(bytearray(4 << 30)), []
    said = {"pid": os.getpid(), "bytes": len(data), "settings": "s3_secret_key" in os.environ}
    return said, [data, data[::-1], b""]
