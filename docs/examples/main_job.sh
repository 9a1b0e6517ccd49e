#!/bin/sh
# The main job, run by `make run`: the bundled real image, an HVM guest that Xen 4.17.5 saved, goes
# into a native image and back, and not a bit is lost; then simulated guests that keep changing
# their memory are saved, restored and moved while they run, and compared. At last one is moved
# between two processes over TLS, on hosts in two more that outlive them.
set -eu
cd "$(dirname "$0")/../.."
out=$(mktemp -d "${TMPDIR:-/tmp}/xsave-run.XXXXXX")
processes=
trap 'for process in $processes; do kill "$process" 2>&- || :; done; wait; rm -rf "$out"' EXIT

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

# Two hosts and the receiving end go on in the background; each says when it is ready.
start() {
  log=$1
  said=$2
  shift 2
  say "$* &"
  "$@" > "$log" 2>&1 &
  processes="$processes $!"
  until grep -qs "$said" "$log"; do
    kill -0 "$!" || { cat "$log"; exit 1; }
    sleep 0.05
  done
}
here=$out/here.sock
there=$out/there.sock
lab=$out/lab
step xsave certs "$lab"
start "$out/here.log" serving python -m xsave_plugins.sim_host serve "$here"
start "$out/there.log" serving python -m xsave_plugins.sim_host serve "$there"
start "$out/receive.log" 'receiving on' \
  xsave receive "tls:127.0.0.1:0?certs=$lab/destination" --into "sim:?prove=yes&at=$there" \
  --once --state "$out/state-there"
port=$(sed -n 's/.*receiving on tls:127[.]0[.]0[.]1:\([0-9]*\).*/\1/p' "$out/receive.log")
step python -m xsave_plugins.sim_host boot "$here" \
  'pv?name=web&memory=64M&dirty=20M/s&tmem=500&prove=yes'
step xsave migrate "sim:?name=web&at=$here" "tls:127.0.0.1:$port?certs=$lab/source" \
  --state "$out/state-here"
step python -m xsave_plugins.sim_host list "$here"
step python -m xsave_plugins.sim_host list "$there"
digests() { python -m xsave_plugins.sim_host proofs "$1" | grep '^  '; }
digests "$here" > "$out/left"
digests "$there" > "$out/arrived"
step cmp "$out/left" "$out/arrived"

printf '\nThe guest that moved over TLS arrived as it left.'
printf '\nThe real guest came back bit for bit: xl file %s bytes, native image %s bytes.\n' \
  "$(size "$out/guest.save")" "$(size "$out/guest.xsv")"
