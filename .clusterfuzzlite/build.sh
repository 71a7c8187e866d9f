#!/bin/bash -eu
# Builds the fuzz targets into $OUT, each with its seeds and options, as ClusterFuzzLite and OSS-Fuzz ask. Elsewhere:
#   RUSTUP_TOOLCHAIN=nightly SRC=.. OUT=/tmp/out .clusterfuzzlite/build.sh
cd "$(dirname "$(realpath "$0")")/.."
# The builder runs a copy of this script that lies in $SRC.
[ -d fuzz ] || cd "$SRC/attnfuzz"
mkdir -p "$OUT"

cargo fuzz build -O --sanitizer "${SANITIZER:-address}"

for name in $(cargo fuzz list); do
    cp fuzz/target/*-linux-gnu/release/"$name" "$OUT/"
    if [ -d "fuzz/seeds/$name" ]; then
        # Unlike zip, Python is on every machine.
        (cd "fuzz/seeds/$name" && python3 -m zipfile -c "$OUT/${name}_seed_corpus.zip" ./*)
    fi
    if [ -f "fuzz/$name.options" ]; then
        cp "fuzz/$name.options" "$OUT/"
    fi
done
