"""Another host in a Python process of this one. Injected below our code: Python imports this module at its start.

`OTHER_HOST_NAME` is what `socket.gethostname` gives, `OTHER_HOST_CLOCK_SECONDS` is added to `time.time` and
`time.time_ns`. Locks of files reach nobody: `flock` of file systems that several machines see may not.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time

_name = os.environ.get("OTHER_HOST_NAME", "")
_seconds = float(os.environ.get("OTHER_HOST_CLOCK_SECONDS", "0"))
if _name:
    socket.gethostname = lambda: _name
    fcntl.flock = lambda descriptor, operation: None
if _seconds:
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + _seconds
    time.time_ns = lambda: _time_ns() + int(_seconds * 1e9)
