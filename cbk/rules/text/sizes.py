"""Sizes as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgtp])(i?))?b?", re.IGNORECASE | re.ASCII)


def parse_size(value: object) -> int:
    """Bytes from "2GiB", "500MB", "64k" or a number. GB is 10^9, GiB is 2^30. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError('expected a size such as "2GiB", "500MB" or a number of bytes')
    number, unit, binary = match.groups()
    exponent = "kmgtp".index(unit.lower()) + 1 if unit else 0
    return int(Decimal(number) * (1024 if binary else 1000) ** exponent)
