"""`python -m launch VERB …`, the same as `banyan VERB …`: how the local launcher starts its ranks."""

import sys

from launch.cli import main

sys.exit(main())
