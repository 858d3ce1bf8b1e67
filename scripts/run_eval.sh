#!/usr/bin/env bash
# Evaluate a checkpoint, or the best (else the last) one of a run directory, on one card.
# bash run_eval.sh DEVICE_ID DATASET_PATH CHECKPOINT_PATH [options of eval.py]
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_mindloc.sh" launch eval "$@"
