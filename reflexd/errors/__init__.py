"""Decides every way reflexd can say no, in one place: to a request (answers.py), and at the end of a job or process."""

from reflexd.errors.answers import *  # noqa: F403
from reflexd.errors.apply import *  # noqa: F403
from reflexd.errors.endings import *  # noqa: F403
from reflexd.errors.uploads import *  # noqa: F403
