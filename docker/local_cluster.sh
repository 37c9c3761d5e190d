#!/usr/bin/env bash
# The cluster of compose.yaml without containers, all on the loopback interface and thrown away at
# the end: a PostgreSQL with a password, a head of Ray that takes no jobs, two workers, and a
# controller by `ray job submit`. Several may run side by side.
#   local_cluster.sh [--kill-node] [SETTINGS [OPTION OF `autocompress search`]...]
# Wants autocompress[ray,postgres,dashboard] on PATH and Debian's package postgresql.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kill_node=
if [ "${1:-}" = --kill-node ]; then
    kill_node=yes
    shift
fi
settings=${1:-$here/example/digits.toml}
shift || true
folder=$(cd "$(dirname "$settings")" && pwd)
study=$(sed -n 's/^name *= *"\(.*\)".*/\1/p' "$settings" | head -n 1)

say() { printf '\n== %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

export PATH=$PATH:/usr/sbin:/sbin # Where runuser is, and not every root looks.
for command in autocompress ray python3 openssl setsid runuser ss; do
    command -v "$command" > /dev/null || fail "$command is not on PATH"
done
bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2> /dev/null | sort -V | tail -n 1)
[ -n "$bin" ] || fail "PostgreSQL is not installed: apt install postgresql"

place=$(mktemp -d /tmp/cluster.XXXXXX) # Short: Ray's sockets lie in it.
chmod 0711 "$place"                    # The owner of the database passes through.
export PYTHONUSERBASE=${PYTHONUSERBASE:-$HOME/.local} HOME=$place
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$place/secrets/ray_token
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 # Ray's name for: stay on the loopback interface.
export RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1
unset RAY_ADDRESS AUTOCOMPRESS_STORAGE AUTOCOMPRESS_STORAGE_FILE PGPASSWORD PGPASSFILE

as_owner() { # PostgreSQL never runs as root.
    if [ "$(id -u)" = 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi
}

with_password() { # A command that reaches the database by a URL without a password.
    PGPASSFILE=$place/secrets/pgpass "$@"
}

list_own() { # Every process that was started with our HOME, which no other has.
    local file
    for file in /proc/[0-9]*/environ; do
        if grep -qsz "^HOME=$place\$" "$file"; then
            basename "$(dirname "$file")"
        fi
    done
}

clean() {
    local code=$? pid
    trap '' INT TERM
    trap - EXIT
    say "ending what this script started"
    for pid in "${nodes[@]}"; do kill -TERM "$pid" 2> /dev/null || true; done
    [ ! -e "$place/postgres/data/postmaster.pid" ] \
        || as_owner "$bin/pg_ctl" -D "$place/postgres/data" -m fast stop > /dev/null || true
    for pid in $(list_own); do kill -KILL "$pid" 2> /dev/null || true; done
    wait 2> /dev/null || true
    case $code in
        0 | 130 | 143) rm -rf "$place" ;;
        *) echo "failed; its logs are in $place" >&2 ;;
    esac
    exit "$code"
}
nodes=()
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mapfile -t ports < <(
    python3 - << 'END'
import socket
holders = [socket.socket() for _ in range(20)]
for holder in holders:
    holder.bind(("127.0.0.1", 0))
    print(holder.getsockname()[1])
END
)
take_port() { # Set `port` to one that is free.
    port=${ports[0]}
    ports=("${ports[@]:1}")
}

say "PostgreSQL from $bin"
take_port
database=127.0.0.1:$port
sh "$here/make_secrets.sh" "$place/secrets" "$database"
mkdir "$place/postgres"
cp "$place/secrets/postgres_password" "$place/postgres/password"
[ "$(id -u)" != 0 ] || chown -R postgres "$place/postgres"
(
    umask 077
    echo "127.0.0.1:$port:*:autocompress:$(cat "$place/secrets/postgres_password")" \
        > "$place/secrets/pgpass"
)
as_owner "$bin/initdb" -D "$place/postgres/data" -U autocompress --auth=scram-sha-256 \
    --encoding=UTF8 --no-locale \
    --pwfile="$place/postgres/password" > "$place/initdb.log" 2>&1
rm "$place/postgres/password"
as_owner "$bin/pg_ctl" -D "$place/postgres/data" -l "$place/postgres/log" -w \
    -o "-c listen_addresses=127.0.0.1 -p $port -k $place/postgres" start > /dev/null
with_password "$bin/createdb" -h 127.0.0.1 -p "$port" -U autocompress autocompress
echo "PostgreSQL listens at $database, with a password"

start_node() { # NAME OPTION...: start a node of the cluster in a process group of its own.
    local name=$1 agent
    shift
    take_port
    agent=$port
    setsid python3 "$here/loopback_ray.py" start --block --disable-usage-stats --temp-dir="$place/r" \
        --object-store-memory=100000000 --dashboard-agent-listen-port="$agent" "$@" \
        > "$place/$name.log" 2>&1 &
    nodes+=("$!")
    until "$here/healthy.py" "http://localhost:$agent/api/local_raylet_healthz" 2> /dev/null; do
        kill -0 "${nodes[-1]}" 2> /dev/null || fail "$name ended: $(tail -n 3 "$place/$name.log")"
        sleep 0.3
    done
    echo "$name is up, process ${nodes[-1]}"
}

say "Ray: a head with no CPUs for jobs and two workers"
take_port
ray=127.0.0.1:$port
take_port
jobs=http://localhost:$port
take_port
# The driver of a job runs on the head: it alone knows where the database's URL is written.
AUTOCOMPRESS_STORAGE_FILE=$place/secrets/storage start_node head --head --num-cpus=0 \
    --num-gpus=0 --port="${ray#*:}" --dashboard-host=127.0.0.1 --dashboard-port="${jobs##*:}" \
    --ray-client-server-port="$port"
start_node worker-1 --address="$ray" --num-cpus=1
start_node worker-2 --address="$ray" --num-cpus=1
"$here/healthy.py" --wait 60 "$jobs/api/gcs_healthz"

say "the controller, as a job on the head"
ray job submit --address="$jobs" --working-dir="$folder" --submission-id="$study" \
    --log-style=record --log-color=false -- \
    autocompress search "$(basename "$settings")" --set "run_dir=$place/runs" \
    --executor ray --address auto --workers 2 "$@" &
job=$!

url=postgresql+psycopg://autocompress@$database/autocompress
count="select count(*) from trials where state = 'COMPLETE'"
ask_count() { with_password "$bin/psql" "${url/+psycopg/}" -Atc "$count" 2> /dev/null || echo 0; }
until [ "$(ask_count)" -gt 2 ]; do
    kill -0 "$job" 2> /dev/null || break
    sleep 0.3
done

if [ -n "$kill_node" ]; then
    say "worker-1 is killed, with all that runs on it; worker-3 joins"
    kill -KILL -- "-${nodes[1]}"
    wait "${nodes[1]}" 2> /dev/null || true
    start_node worker-3 --address="$ray" --num-cpus=1
fi

say "what listens: nothing beyond the loopback interface"
own=$( (list_own && head -n 1 "$place/postgres/data/postmaster.pid") | paste -sd '|')
listening=$(ss -ltnHp | grep -E "pid=($own)," || true)
echo "$listening" | awk '{print $6, $4}' | sed 's/users:(("\([^"]*\)"[^ ]*/\1/' | sort
if echo "$listening" | awk '{print $4}' | grep -qvE '^(127\.|\[::1\]|\[::ffff:127\.)'; then
    fail "something listens beyond the loopback interface"
fi

say "what workers know and command lines tell: no secret"
for pid in $(list_own); do
    grep -qs '^ray::RayWorker' "/proc/$pid/cmdline" || continue
    echo "worker process $pid"
    if grep -qszE '^(AUTOCOMPRESS_STORAGE|PGPASS)' "/proc/$pid/environ"; then
        fail "it knows where the study is"
    fi
done
for secret in postgres_password ray_token; do
    if cat /proc/[0-9]*/cmdline 2> /dev/null | grep -qaFf "$place/secrets/$secret"; then
        fail "a command line holds the secret $secret"
    fi
done

say "the study, while it runs"
with_password autocompress status "$study" --storage "$url"

wait "$job" || fail "the search failed"

say "the study, when it is done"
AUTOCOMPRESS_STORAGE_FILE=$place/secrets/storage autocompress pareto "$study"

say "what logs, models and the study tell: no secret"
with_password "$bin/pg_dump" "${url/+psycopg/}" > "$place/study.sql"
for secret in postgres_password ray_token; do
    if grep -rlFf "$place/secrets/$secret" "$place" --exclude-dir=secrets; then
        fail "these files hold the secret $secret"
    fi
done
