"""Patterns of keys, as a person types them to a command."""

from __future__ import annotations

import fnmatch
import re

_LITERAL = re.compile(r"[^*?\[]*")


def literal_start(pattern: str) -> str:
    """What every key that matches begins with: the pattern up to its first wildcard.

    >>> literal_start("cars/id-?/*.png")
    'cars/id-'
    """
    found = _LITERAL.match(pattern)
    return found[0] if found else ""


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """What matches the whole key.

    `*` stands for any characters, slashes too, so that `**` is the same; `?` for one, `[abc]` for one of these and `[!abc]` for
    one that is none of them. Upper and lower case differ. Who looks for `*.png` wants every picture, however deep it lies.

    >>> bool(compile_pattern("cars/*.png").match("cars/id-1/thumbnail.png"))
    True
    """
    return re.compile(fnmatch.translate(pattern))
