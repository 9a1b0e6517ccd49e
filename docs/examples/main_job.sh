#!/bin/sh
# The main job, run by `make run`: the bundled real image, an HVM guest that Xen 4.17.5 saved, goes
# into a native image and back, and not a bit is lost; then simulated guests that keep changing
# their memory are saved, restored and moved while they run, and compared.
set -eu
cd "$(dirname "$0")/../.."
out=$(mktemp -d "${TMPDIR:-/tmp}/xsave-run.XXXXXX")
trap 'rm -rf "$out"' EXIT

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }
[ -n "${NO_COLOR:-}" ] && say() { printf '\n$ %s\n' "$*"; }
step() { say "$@"; "$@"; }

image=tests/data/hvmbios.save.zst
step xsave plugins
step xsave run "$image" "$out/guest.xsv" --codec zstd:1
step xsave verify "$out/guest.xsv"
step xsave run "$out/guest.xsv" "$out/guest.save" --to xl

# The bundled image is compressed as a whole; xsave reads it through that. What it is compared
# with is unpacked without xsave.
python - "$image" "$out/original.save" <<'END'
import sys
try:
    from compression import zstd  # Python 3.14
except ImportError:
    from backports import zstd
with zstd.open(sys.argv[1]) as packed, open(sys.argv[2], "wb") as unpacked:
    unpacked.write(packed.read())
END
step cmp "$out/original.save" "$out/guest.save"

say "xsave inspect guest.xsv | head -n 40"
xsave inspect "$out/guest.xsv" > "$out/inspected"
head -n 40 "$out/inspected"

size() { wc -c < "$1" | tr -d ' '; }
step xsave run --plugins tmem,hvm

printf '\nThe real guest came back bit for bit: xl file %s bytes, native image %s bytes.\n' \
  "$(size "$out/guest.save")" "$(size "$out/guest.xsv")"
