import sys

from weft_generate.cli import main

sys.exit(main(sys.argv[1:]))
