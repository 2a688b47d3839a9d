"""One verb per file: gather, decide, apply."""
