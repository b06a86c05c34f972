#!/bin/sh
# Puts the kernels that the image carries where numba can also write, then becomes `nearcart`.
# Numba reads no cache from a directory that it cannot write to, however complete, so the image's own cannot be used in
# place. Files that are newer here are kept: they hold what was compiled for another processor. 5 MB, 50 ms.
set -eu
if [ ! -w "$NUMBA_CACHE_DIR" ]; then
    echo "entrypoint: found $NUMBA_CACHE_DIR read-only, expected a directory that uid $(id -u) can write to:" \
        "mount a tmpfs there (docker run --tmpfs $NUMBA_CACHE_DIR:uid=$(id -u),mode=0700)" >&2
    exit 1
fi
cp -R -u "${NEARCART_KERNELS:-/opt/nearcart/kernels}/." "$NUMBA_CACHE_DIR"
exec nearcart "$@"
