"""`python -m cbk_app` is `cbk-app`."""

import sys

from cbk_app.main import main

sys.exit(main())
