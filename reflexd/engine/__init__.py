"""Decides how text becomes a classifier and a classifier an answer; knows neither the store nor the API.

Also that ONNX Runtime reports nothing to its makers: its telemetry is on by default, keeps an id of the device in the
user's cache and asks for its collector's address. The switch must be set before the library is first imported, and
child processes inherit it.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
