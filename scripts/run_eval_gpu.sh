#!/usr/bin/env bash
# Evaluate a checkpoint on a GPU; --engine onnx evaluates an exported encoder.
# bash run_eval_gpu.sh DEVICE_ID DATASET_PATH CHECKPOINT_PATH [options of eval.py]
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_mindloc.sh" launch eval-gpu "$@"
