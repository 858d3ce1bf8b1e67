#!/usr/bin/env bash
# Train on all cards of a rank table; run the same command on every server of the table. RANKS: number of ranks, without a table.
# bash run_distribute_train.sh RANK_TABLE_FILE|RANKS DATASET_PATH TRAIN_OUTPUT_PATH [CHECKPOINT_PATH] [BEGIN_EPOCH] [EVAL_CALLBACK] [options of train.py]
# CHECKPOINT_PATH: "" (random weights), a file of start weights, or a run directory to resume. More: --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_mindloc.sh" launch train "$@"
