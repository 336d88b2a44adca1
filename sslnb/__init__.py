__version__ = "0.1.0"

import os

# Must stand before torch is first imported. By default OpenMP's threads spin while they wait for each other, and on a
# machine where another process takes a core they spin for whole time slices (tests/benchmarks/ has the measurement).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
