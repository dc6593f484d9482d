"""`python -m palyra`: the same program as the `palyra` command."""

from __future__ import annotations

import sys

from palyra.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
