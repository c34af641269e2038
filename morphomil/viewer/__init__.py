"""The slide browser, without its server: what the page in `page/` shows."""

from morphomil.viewer.browser import Reviewer, SlideBrowser

__all__ = ["Reviewer", "SlideBrowser"]
