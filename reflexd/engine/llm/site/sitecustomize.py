"""Decides that each Python process of the language model's server ends with the one that started it, even by SIGKILL.

Loaded by the Python of the server's own virtual environment, which has nothing of reflexd: it imports the standard
library only.
"""

import ctypes
import os
import signal
import sys

if "resource_tracker" not in " ".join(sys.orig_argv):  # it ends by itself, after it has freed the others' shared memory
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    # The server leads a session. Whoever starts in it and has a parent elsewhere was handed on: the one that started it
    # had ended by then.
    try:
        _alone = os.getpid() != os.getsid(0) != os.getsid(os.getppid())
    except ProcessLookupError:
        _alone = True
    if _alone:
        os._exit(1)
