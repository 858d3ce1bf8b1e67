"""From images and pairs on disk to batches: readers, check, sampler, augmentation, loader; without MindSpore."""
