"""A picture on a page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """A picture, or the reason why there is none.

    Attributes:
        uri: data URI; empty if nothing could be drawn.
        alt: the picture in words.
        caption: what it shows, or why it is missing.
    """

    uri: str
    alt: str
    caption: str
