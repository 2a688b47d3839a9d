"""`python -m cbk.cli`: the command without an installed script."""

from cbk.cli.main import main

main()
