#!/bin/sh
# join.sh ADDRESS COMMAND...: make this container a node of the Ray cluster that takes no jobs,
# then become COMMAND, which is a driver of that cluster. Both end together with the container.
set -eu
address=$1
shift
ray start --address="$address" --num-cpus=0 --num-gpus=0 --disable-usage-stats
exec "$@"
