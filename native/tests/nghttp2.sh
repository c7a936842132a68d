#!/bin/sh
# How native/ is compiled for HTTP/2 here: `nghttp2.sh cflags` or `nghttp2.sh libs`, each one line.
#
# As setup.py does it: nothing where libnghttp2 is missing or too old, or with SHARDSERVE_HTTP2=0, so that the
# fuzzers and the sanitizers have the two builds that users have.
set -eu
case ${SHARDSERVE_HTTP2:-} in 0 | false | no | off) exit 0 ;; esac
pkg-config --atleast-version=1.48 libnghttp2 2>/dev/null || exit 0
if [ "$1" = libs ]; then
    pkg-config --libs libnghttp2
    exit 0
fi
found=$(pkg-config --cflags libnghttp2)
header=$(echo '#include <nghttp2/nghttp2.h>' | ${CC:-cc} $found -E -)
flags="$found -DSHARDSERVE_NGHTTP2=1"
# Distributions have ported both back to versions that do not tell.
case $header in *nghttp2_option_set_stream_reset_rate_limit*) flags="$flags -DSHARDSERVE_NGHTTP2_RESET_LIMIT=1" ;; esac
case $header in *nghttp2_option_set_max_continuations*) flags="$flags -DSHARDSERVE_NGHTTP2_CONTINUATIONS=1" ;; esac
echo $flags
