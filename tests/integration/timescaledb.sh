#!/usr/bin/env bash
# A PostgreSQL with TimescaleDB to test on, from Debian's packages (they hold the Apache edition). Takes root and
# mmdebstrap, and no Docker. It says its DSN in one line, serves until its input ends, and removes its data then.
# The Debian it runs in is made once and kept in the cache.
#
#     tests/integration/timescaledb.sh [--SETTING=VALUE ...]
set -euo pipefail

impossible() { echo "$1" >&2; exit 1; }
[ "$(id -u)" = 0 ] || impossible "a server from Debian's packages takes root"
for need in mmdebstrap unshare flock; do
  command -v $need >/dev/null || impossible "$need is missing: apt-get install mmdebstrap util-linux"
done

# What a server needs that compiles no queries and speaks English.
unneeded=(/usr/share/{doc,man,locale,i18n}/'*' '/usr/lib/postgresql/*/bitcode/*' '/usr/lib/*/lib'{LLVM,z3}'*')
recipe=(--quiet --variant=minbase --include=postgresql-17-timescaledb
  --essential-hook='mkdir -p "$1/etc/postgresql-common"'
  --essential-hook='echo create_main_cluster=false >"$1/etc/postgresql-common/createcluster.conf"'
  "${unneeded[@]/#/--dpkgopt=path-exclude=}" trixie)

cache=${XDG_CACHE_HOME:-$HOME/.cache}/nightshift-tests
debian=$cache/timescaledb-$(sha256sum <<<"${recipe[*]}" | cut -c 1-12)
mkdir -p "$cache"
(
  flock 9
  if [ ! -d "$debian" ]; then
    rm -rf --one-file-system "$cache"/timescaledb-*  # of another recipe, or half made
    # In a namespace of its own, so that no mount outlives it, nor any process.
    unshare --mount --pid --fork --kill-child mmdebstrap "${recipe[@]}" "$debian.new" >&2 </dev/null
    mv "$debian.new" "$debian"
  fi
) 9>"$cache/lock"

data=$(mktemp -d "${TMPDIR:-/tmp}/nightshift-timescaledb-XXXXXX")
trap 'rm -rf "$data"' EXIT

# Everything ends with the namespace's first process, and that with its server, and that with our input.
unshare --mount --pid --ipc --fork --kill-child sh -euc '
  data=$2
  cd "$1"
  shift 2
  as_postgres="chroot --userspec=postgres . env -i LC_ALL=C PATH=/usr/lib/postgresql/17/bin:/usr/bin:/bin"
  say() { $as_postgres psql --quiet --no-psqlrc --host=/mnt --username=nightshift --dbname="$1" --command="$2" >&2; }

  mount --rbind /dev dev
  mount --bind "$data" mnt
  chmod 711 mnt
  chroot . chown postgres: /mnt
  $as_postgres initdb --pgdata=/mnt/data --username=nightshift --auth=trust --data-checksums --no-sync \
    --no-instructions --encoding=UTF8 --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8 >/dev/null

  exec 3<&0
  $as_postgres postgres -D /mnt/data \
    --listen_addresses= --unix_socket_directories=/mnt --unix_socket_permissions=0700 \
    --dynamic_shared_memory_type=mmap --jit=off --shared_preload_libraries=timescaledb "$@" \
    >mnt/log 2>&1 </dev/null &
  server=$!
  until $as_postgres pg_isready --quiet --host=/mnt --username=nightshift --dbname=postgres; do
    kill -0 $server 2>/dev/null || { tail -n 3 mnt/log >&2; exit 1; }
    sleep 0.1
  done
  say template1 "CREATE EXTENSION timescaledb"
  say template1 "CREATE DATABASE nightshift"
  echo "postgresql://nightshift@/nightshift?host=$data&port=5432"

  { cat >/dev/null; kill -INT $server; } <&3 &
  wait $server
' sh "$debian" "$data" "$@"
