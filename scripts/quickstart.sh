#!/usr/bin/env bash
# Quick start on a CPU: create the environment, generate two worlds, train on one and evaluate on the other.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$PROJECT"

install requirements.txt

started=$SECONDS
echo "generating two worlds and training on one of them: three to five minutes"
make_world() { # DIRECTORY ARGUMENT...: generate a world, unless it exists
    [ -f "$1/world.json" ] || "$PYTHON" -m mindloc world "$@" --tile_format jpg --drone_format jpg
}
make_world data/world_train --seed 1 --drones 1500 --test_share 0
make_world data/world_test --seed 2 --drones 300 --test_share 1 --tiles 500

run=work_dir/quickstart/$(date +%m%d%H%M%S)
"$PYTHON" train.py --config world_tiny --run_dir "$run"
"$PYTHON" eval.py --checkpoint "$run" --out "$run/reports/best"
echo "finished in $((SECONDS - started)) s; report and images: $run/reports/best"
