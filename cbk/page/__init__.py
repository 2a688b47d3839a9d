"""The page in the browser, and the metrics beside it: they look, and change nothing."""
