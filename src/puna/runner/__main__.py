"""`python -m puna.runner DESCRIPTOR [MEMORY]`: what a server starts; of no use by hand."""

import sys

from puna.runner.worker import main

sys.exit(main(sys.argv[1:]))
