"""An app that imports what is not installed."""

from __future__ import annotations

import not_installed_anywhere  # type: ignore[import-not-found]

app = not_installed_anywhere.app
