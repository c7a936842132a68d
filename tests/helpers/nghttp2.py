"""The mark of tests of HTTP/2, which the extension may have been built without."""

from __future__ import annotations

import pytest

from shardserve import _native

needs_nghttp2 = pytest.mark.skipif(_native.nghttp2_version is None, reason="built without nghttp2")
