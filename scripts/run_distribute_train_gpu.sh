#!/usr/bin/env bash
# Train on several GPUs of this server, e.g. GPU_IDS 0,1.
# bash run_distribute_train_gpu.sh GPU_IDS DATASET_PATH TRAIN_OUTPUT_PATH [CHECKPOINT_PATH] [BEGIN_EPOCH] [EVAL_CALLBACK] [options of train.py]
# CHECKPOINT_PATH: "" from scratch, a file of weights, or a run directory to continue. More: --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_mindloc.sh" launch train-gpu "$@"
