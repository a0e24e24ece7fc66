"""`python -m postward`."""

from __future__ import annotations

import sys

from postward.cli import main

sys.exit(main())
