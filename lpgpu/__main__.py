"""`python -m lpgpu.cli` is `lpgpu`."""

import sys

from lpgpu.cli.app import main

sys.exit(main())
