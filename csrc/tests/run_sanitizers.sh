#!/usr/bin/env bash
# Builds and runs the C++ tests plain, under ASan + UBSan, and under TSan; warnings are errors in all three.
#   run_sanitizers.sh [BUILD_ROOT]      default: build/sanitizers
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$root/build/sanitizers}
export UBSAN_OPTIONS=print_stacktrace=1
for sanitize in "" address,undefined thread; do
  directory=$build/${sanitize:-none}
  echo "== ${sanitize:-no sanitizer}"
  cmake -S "$root" -B "$directory" -DGFNET_TESTS=ON -DGFNET_BENCHMARKS=ON -DGFNET_WERROR=ON \
    -DGFNET_SANITIZE="$sanitize" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS=-O1
  cmake --build "$directory" --parallel "${JOBS:-1}"
  ctest --test-dir "$directory" --output-on-failure --no-tests=error
done
