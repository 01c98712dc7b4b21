"""`python -m sidechain.daemon` is `sidechaind`."""

import sys

from sidechain.daemon.entry import main

if __name__ == "__main__":
    sys.exit(main())
