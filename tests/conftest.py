import os

# Tests run side by side, and two torches of several threads each would slow each other down many times over.
os.environ["OMP_NUM_THREADS"] = "1"

pytest_plugins = ["tests.servers"]
