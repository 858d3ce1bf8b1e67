"""From images and pairs on disk to batches: readers, check, samplers, augmentation, loader; without MindSpore."""
