"""One file per command group: they print, and map errors to exit codes."""
