#!/usr/bin/env bash
# Train on several GPUs of this server. GPU_IDS: such as 0,1
# bash run_distribute_train_gpu.sh GPU_IDS DATASET_PATH TRAIN_OUTPUT_PATH [CHECKPOINT_PATH] [BEGIN_EPOCH] [EVAL_CALLBACK] [options of train.py]
# CHECKPOINT_PATH: "" (random weights), a file of start weights, or a run directory to resume. More: --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_mindloc.sh" launch train-gpu "$@"
