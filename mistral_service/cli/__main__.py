"""`python -m mistral_service.cli`: the same as `mistral-service`."""

import sys

from mistral_service.cli import main

if __name__ == "__main__":
    sys.exit(main())
