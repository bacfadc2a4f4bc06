"""Decides that each Python process of the language model's server ends with the one that started it, even by SIGKILL.

Loaded by the Python of the server's own virtual environment, which has nothing of reflexd: it imports the standard
library only.
"""

import ctypes
import os
import signal
import sys

if "resource_tracker" not in " ".join(sys.orig_argv):  # it ends by itself, after it has freed the others' shared memory
    _parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != _parent:  # it ended just before that
        os._exit(1)
