"""HTTP/2 of the Connection under libFuzzer and the sanitizers, or one input of it, told step by step.

    fuzz_h2.py LIBRARY COMMAND [libFuzzer's arguments]
    fuzz_h2.py LIBRARY COMMAND --reproduce INPUT

As fuzz_connection.py, with another client: an input is operations that become frames (fuzz_h2_client.py), and
every frame of either side is read beside the connection (fuzz_h2_said.py, fuzz_h2_reader.py). It needs the
``hpack`` package. Where the library was built without nghttp2 there is nothing to do, which is said.
"""

from __future__ import annotations

import fuzz_connection


def main() -> None:
    native, world, arguments = fuzz_connection.prepared()
    if native.nghttp2_version is None:
        print("fuzz_h2: skipped, built without nghttp2")
        return
    from fuzz_h2_script import CONTROL_BYTES
    from fuzz_h2_theatre import Http2Theatre

    fuzz_connection.run(Http2Theatre, CONTROL_BYTES, native, world, arguments)


if __name__ == "__main__":
    main()
