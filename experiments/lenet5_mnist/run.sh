#!/bin/sh
# Run everything of RESULTS.md: run.sh ROOT_OF_MNIST [RUN_DIR]. Stop it at any time; a second call
# goes on. One thread per process and two processes at a time fill two cores.
set -eu
root=$1
runs=${2:-runs/lenet5_mnist}
here=experiments/lenet5_mnist
export OMP_NUM_THREADS=1
mkdir -p "$runs"

search() { # NAME SEED [SETTING=VALUE ...]
    name=$1 seed=$2
    shift 2
    set -- --set "name=\"$name\"" --set "seed=$seed" --set "task.seed=$seed" \
        --set "task.data.root=\"$root\"" --set "run_dir=\"$runs\"" \
        --set "storage=\"sqlite:///$runs/$name.db\"" "$@"
    python -m autocompress search "$here/settings.toml" "$@" >"$runs/$name.log" 2>&1
}

ablate() { # NAME SEED
    python "$here/ablate.py" "$here/settings.toml" "$runs/ablation.jsonl" "name=\"$1\"" "seed=$2" \
        "task.seed=$2" "task.data.root=\"$root\"" "run_dir=\"$runs\"" \
        "storage=\"sqlite:///$runs/$1.db\"" >"$runs/$1-ablation.log" 2>&1
}

filters="space.column_density=[1.0, 1.0]"
columns="space.filter_density=[1.0, 1.0]"
(
    search main-0 0
    search main-2 2
    search small-0 0 --set budget.weights=1855
    search filters-0 0 --set "$filters"
    ablate main-0 0
    search filters-1 1 --set "$filters"
) &
(
    search main-1 1
    search small-1 1 --set budget.weights=1855
    search columns-0 0 --set "$columns"
    ablate main-1 1
    search small-2 2 --set budget.weights=1855
    search columns-1 1 --set "$columns"
) &
wait
