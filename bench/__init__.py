"""What the kit costs, measured on real servers; run from the top of the repository as `python -m bench`."""

import sys
from pathlib import Path

# The servers that demo and tests start, too.
sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
