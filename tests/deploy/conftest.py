import sys
from pathlib import Path

# For dockerfile.py, and nginx.py of tests/serve; at the end, so that `conftest` is that of tests/train.
sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "serve")]
