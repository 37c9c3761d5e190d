#!/bin/sh
# make_secrets.sh [FOLDER [HOST:PORT]]: make a password of the database, the URL that holds it,
# and the token of a Ray cluster. What is there already is left alone: it opens what exists.
set -eu
folder=${1:-$(dirname "$0")/secrets}
address=${2:-postgres:5432}
umask 077
mkdir -p "$folder"
make() { # NAME TEXT
    printf '%s' "$2" > "$folder/$1"
    # The folder keeps others of this machine out; users of containers have other numbers.
    chmod 0444 "$folder/$1"
    echo "made $folder/$1"
}
[ -e "$folder/ray_token" ] || make ray_token "$(openssl rand -hex 32)"
[ -e "$folder/postgres_password" ] || make postgres_password "$(openssl rand -hex 32)"
[ -e "$folder/storage" ] || make storage \
    "postgresql+psycopg://autocompress:$(cat "$folder/postgres_password")@$address/autocompress"
