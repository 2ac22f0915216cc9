import os

from hypothesis import settings

# Tests run side by side, and two torches of several threads each would slow each other down many times over.
os.environ["OMP_NUM_THREADS"] = "1"

# A change is judged by what it breaks, not by what a law happens to be tried on today.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

pytest_plugins = ["tests.servers"]
