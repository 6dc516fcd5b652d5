import sys

from weft_prepare.cli import main

sys.exit(main(sys.argv[1:]))
