"""Text from outside as a terminal may show it: as text."""

from __future__ import annotations

import re

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"  # writing directions, other line ends, half characters
)


def shown(text: str) -> str:
    r"""Return text with what could steer a terminal written out, as ``\x1b``: escape sequences, writing directions."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)
