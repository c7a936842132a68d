#!/bin/bash
# The extension under the address and undefined behaviour sanitizers, with the Python tests.
#
#   native/tests/sanitize.sh                        the native and worker tests, then the conformance tests
#   native/tests/sanitize.sh native|conformance     one of the two
#   native/tests/sanitize.sh [pytest arguments]     these tests
#   PYTHON=python3.12 native/tests/sanitize.sh      another interpreter (with the test dependencies)
#
# With HTTP/2 where nghttp2 is there (nghttp2.sh); SHARDSERVE_HTTP2=0 leaves it out, and its tests skip.
#
# It never touches the normal build: everything happens in a copy of the tree under .build/asan. Fails when a
# test fails, and when a sanitizer or a CHECK reports anything anywhere, also in a process that a test started.
set -euo pipefail
trap '[ $? -eq 0 ] || echo "== failed"' EXIT

root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
copy=$root/.build/asan
reports=$copy/.reports

mkdir -p "$copy" "$reports"
rm -f "$reports"/*
for part in shardserve tests native docs perf; do
    mkdir -p "$copy/$part"
    rsync_like() { (cd "$root/$part" && tar cf - --exclude='*.so' --exclude=__pycache__ .) | tar xf - -C "$copy/$part"; }
    find "$copy/$part" -type f ! -name '*.so' ! -name '*.o' -delete
    [ -d "$root/$part" ] && rsync_like
done
find "$root" -maxdepth 1 -type f \( -name '*.toml' -o -name '*.md' -o -name setup.py -o -name Makefile -o -name LICENSE \) -exec cp -p {} "$copy/" \;

# ---- build: one object a file, in parallel, and only what changed ----

include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
objects=$copy/.objects$suffix
flags="-std=c11 -O1 -g -fPIC -fvisibility=hidden -fsanitize=address,undefined -fno-omit-frame-pointer -DSHARDSERVE_DEBUG
 -DSHARDSERVE_NO_SPARES -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Wno-cast-function-type"
http2=$("$root/native/tests/nghttp2.sh" cflags)
mkdir -p "$objects"
if [ "$(cat "$objects/flags" 2>/dev/null)" != "$flags $http2" ]; then
    rm -f "$objects"/*.o
    echo "$flags $http2" >"$objects/flags"
fi
newest_header=$(ls -t "$root"/native/*.h | head -1)
for source in "$root"/native/*.c; do
    object=$objects/$(basename "$source" .c).o
    if [ ! "$object" -nt "$source" ] || [ ! "$object" -nt "$newest_header" ]; then
        printf '%s\0%s\0' "$object" "$source"
    fi
done | xargs -0 -r -n 2 -P "$(nproc)" sh -c 'gcc '"$(echo $flags $http2)"' -I'"$include"' -c "$1" -o "$0"'
for object in "$objects"/*.o; do
    [ -f "$root/native/$(basename "$object" .o).c" ] || rm "$object"
done
gcc -shared -fsanitize=address,undefined "$objects"/*.o $("$root/native/tests/nghttp2.sh" libs) -o "$copy/shardserve/_native$suffix"

# ---- run ----

cd "$copy"
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
# CPython frees nothing at its end, so leaks are not looked for here: tests/leaks does that by counting.
export ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:handle_segv=1:log_path=$reports/asan"
export UBSAN_OPTIONS="print_stacktrace=1:log_path=$reports/ubsan"
export PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1 SHARDSERVE_TEST_PATIENCE_S=60 SHARDSERVE_SANITIZED=1
unset PYTHONPATH

"$python" - "$http2" <<'CHECK'
import sys
import shardserve._native as native
assert ".build/asan" in native.__file__ and native.debug_build, native.__file__
assert bool(native.nghttp2_version) == bool(sys.argv[1]), (native.nghttp2_version, sys.argv[1])
CHECK

run() { "$python" -m pytest -q -p no:cacheprovider "$@" 2>&1 | tee -a "$reports/pytest.log" || status=$?; }
status=0
run_native() { # these fork: no other thread may be there
    run tests/native tests/unit/worker tests/unit/test_native_stub.py
}
run_conformance() { # which bytes are a request, in long tables, is the parser's work more than ours: fuzzers feed us those
    run -n auto tests/conformance --ignore tests/conformance/test_line.py --ignore tests/conformance/test_head_fields.py \
        --deselect tests/conformance/test_corpus.py::test_at_every_offset
}
case "$*" in
    "") run_native && run_conformance ;;
    native) run_native ;;
    conformance) run_conformance ;;
    *) run "$@" ;;
esac

unset LD_PRELOAD
found=$(cat "$reports"/asan.* "$reports"/ubsan.* 2>/dev/null | grep -cE 'ERROR: |runtime error:' || true)
if [ "$found" -gt 0 ]; then
    echo
    echo "== the sanitizers reported $found times; the first of each kind:"
    { cat "$reports"/asan.* "$reports"/ubsan.* 2>/dev/null || true; } | grep -hE 'ERROR: |runtime error:|#[0-9]+ .*native/[a-z0-9]+\.[ch]' |
        sed -E 's/^==[0-9]+==//; s/0x[0-9a-f]+/0x…/g; s/T0\).*/T0)/' | sort | uniq -c | sort -rn | head -40
    status=1
fi
if grep -qE 'CHECK failed' "$reports/pytest.log"; then
    echo "== a CHECK failed"
    status=1
fi
[ "$status" -eq 0 ] && echo "== sanitizers: nothing to report"
exit "$status"
