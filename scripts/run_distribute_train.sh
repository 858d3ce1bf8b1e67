#!/usr/bin/env bash
# Train on all cards of a rank table; the same call on every server of it. RANKS: so many ranks on this server.
# bash run_distribute_train.sh RANK_TABLE_FILE|RANKS DATASET_PATH TRAIN_OUTPUT_PATH [CHECKPOINT_PATH] [BEGIN_EPOCH] [EVAL_CALLBACK] [options of train.py]
# CHECKPOINT_PATH: "" from scratch, a file of weights, or a run directory to continue. More: --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_mindloc.sh" launch train "$@"
