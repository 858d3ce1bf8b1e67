#!/usr/bin/env bash
# Train on one card.
# bash run_standalone_train.sh DEVICE_ID DATASET_PATH TRAIN_OUTPUT_PATH [CHECKPOINT_PATH] [BEGIN_EPOCH] [EVAL_CALLBACK] [options of train.py]
# CHECKPOINT_PATH: "" (random weights), a file of start weights, or a run directory to resume. More: --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_mindloc.sh" launch standalone "$@"
