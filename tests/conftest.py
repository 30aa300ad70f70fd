"""Tests run tiny networks, which are fastest on one thread and crawl when threads of busy cores wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
