"""The bare kernels of a request on the world's bundle, once: JSON of microseconds by name (loadtests/kernels.py).

MDREC_HOME=DIR python -m loadtests.peers.bare
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from loadtests.kernels import kernels, live_bundle, one_round


def main() -> None:
    bundle = live_bundle(Path(os.environ["MDREC_HOME"]))
    print(json.dumps({name: one_round(kernel) for name, kernel in kernels(bundle).items()}))


if __name__ == "__main__":
    main()
