#!/usr/bin/env bash
# Evaluate a checkpoint on one card; for a run directory, its best weights, or its last weights if there are no best ones.
# bash run_eval.sh DEVICE_ID DATASET_PATH CHECKPOINT_PATH [options of eval.py]
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_mindloc.sh" launch eval "$@"
