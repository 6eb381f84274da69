"""Settings of all tests."""

import os

# Before torch is imported, here and in the processes that tests start: on a shared machine two threads per process
# run slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
