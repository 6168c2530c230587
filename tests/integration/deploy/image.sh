#!/usr/bin/env bash
# Builds the image with the real Dockerfile and tries what it promises. No Docker is needed, but root and
# buildah. The base is PYTHON_IMAGE, or else a Debian with its own Python, made here with mmdebstrap.
set -euo pipefail
cd "$(dirname "$0")/../../.."

needs=(buildah unshare systemd-analyze)
[ -n "${PYTHON_IMAGE-}" ] || needs+=(mmdebstrap)
for need in "${needs[@]}"; do
  command -v "$need" >/dev/null || { echo "not tested: the image ($need is not here)"; exit 0; }
done
[ "$(id -u)" = 0 ] || { echo "not tested: the image (this takes root)"; exit 0; }

uid=10001
work=$(mktemp -d)
container=
export BUILDAH_ISOLATION=chroot

finish() {
  if [ -n "$container" ]; then
    umount "$files/proc" "$files/dev" 2>/dev/null || true
    buildah rm "$container" >/dev/null
  fi
  rm -rf "$work"
}
trap finish EXIT

say() { printf '%-10s %s\n' "$1" "$2"; }
fail() { echo "FAIL       $1" >&2; exit 1; }
within() { buildah run "$container" -- "$@"; }

base=${PYTHON_IMAGE-}
if [ -z "$base" ]; then
  base=localhost/nightshift-test-base
  if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/base.tar"
    making=$(buildah from scratch)
    buildah add --quiet "$making" "$work/base.tar" / >/dev/null
    # A machine that trusts more certificates, or finds packages elsewhere, does so in the build too.
    for file in /etc/ssl/certs/ca-certificates.crt /etc/pip.conf; do
      [ ! -e "$file" ] || buildah copy --quiet "$making" "$file" "$file" >/dev/null
    done
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$making"
    buildah commit --quiet "$making" "$base" >/dev/null
    buildah rm "$making" >/dev/null
  fi
fi

buildah bud --quiet --format docker --build-arg PYTHON_IMAGE="$base" --tag localhost/nightshift-test . >/dev/null
container=$(buildah from localhost/nightshift-test)
files=$(buildah mount "$container")
say built "$(buildah images --format '{{.Size}}' localhost/nightshift-test), of which the base $(buildah images --format '{{.Size}}' "$base")"

say version "$(within nightshift --version)"
[ "$(within id -u)" = $uid ] || fail "it does not run as $uid"
[ "$(within stat -c %u /var/lib/nightshift)" = $uid ] || fail "the state folder is not nightshift's"
found=$(within sh -c '
  for path in / /etc /opt /opt/nightshift /usr; do [ ! -w "$path" ] || echo "$path"; done
  for tool in cc gcc g++ make; do command -v "$tool" || true; done')
[ -z "$found" ] || fail "it may write to this, or has this: $found"
[ -z "$(find "$files/opt" "$files/src" "$files/wheels" "$files/root/.cache" -name '*.whl' 2>/dev/null)" ] || fail "wheels are left"
say contents "user $uid, nothing to write to but its state, no compiler, no packages left over"

say demo "$(within nightshift demo --nights 1 --json 2>/dev/null)"

mount --bind /proc "$files/proc"
mount --bind /dev "$files/dev"
port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
inside=(env -i PATH=/opt/nightshift/bin:/usr/bin:/bin LANG=C.UTF-8 NIGHTSHIFT_STATE_DIR=/var/lib/nightshift
  NIGHTSHIFT_DAEMON__LISTEN=127.0.0.1:$port)
say limits "$(/usr/bin/python3 tests/integration/deploy/sandboxed.py "$files" $uid "${inside[@]}" nightshift demo --nights 1 --json 2>/dev/null)"

# The daemon as compose.yaml confines it, and as PID 1, with its own PostgreSQL and a cloud that is not there.
buildah inspect --type image --format '{{index .Docker.Config.Healthcheck.Test 3}}' localhost/nightshift-test >"$work/healthcheck.py"
cat >"$work/confined" <<END
set -e
mount --bind '$files' '$files'
cd '$files'
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=0750,uid=$uid,gid=$uid tmpfs var/lib/nightshift
mount -o remount,bind,ro '$files'
if touch '$files/etc/written' 2>/dev/null; then echo 'the file system is not read-only'; exit 1; fi
exec chroot '$files' setpriv --reuid=$uid --regid=$uid --clear-groups --bounding-set=-all --no-new-privs ${inside[*]} \
  NIGHTSHIFT_BEDDIT__BASE_URL=http://127.0.0.1:1 NIGHTSHIFT_BEDDIT__ACCOUNTS__A__USER_ID=1 \
  NIGHTSHIFT_BEDDIT__ACCOUNTS__A__TOKEN=t nightshift run
END
unshare --pid --fork --mount --kill-child sh "$work/confined" >"$work/log" 2>&1 &
parent=$!
healthy() { NIGHTSHIFT_DAEMON__LISTEN=127.0.0.1:$port /usr/bin/python3 -c "$(cat "$work/healthcheck.py")" 2>/dev/null; }
running() { healthy && first=$(pgrep --parent $parent) && pgrep --parent "$first" postgres >/dev/null; }
for _ in $(seq 60); do running && break; kill -0 $parent 2>/dev/null || break; sleep 1; done
running || { cat "$work/log" >&2; fail "the daemon does not run with its PostgreSQL, or its health check says no"; }
zombies=$(ps -o stat= --ppid "$first" | grep -c '^Z' || true)
kill -TERM "$first"
code=0
wait $parent || code=$?
[ "$code" = 0 ] || { cat "$work/log" >&2; fail "PID 1 ended with $code after SIGTERM"; }
! healthy || fail "the health check says yes where nobody is"
say "run" "read-only, without capabilities, as PID 1, with its PostgreSQL: healthy, ended by SIGTERM with 0, $zombies unreaped children"
