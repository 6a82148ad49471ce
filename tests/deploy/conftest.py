import sys
from pathlib import Path

# For dockerfile.py; at the end, so that `conftest` is that of tests/train.
sys.path.append(str(Path(__file__).parent))
