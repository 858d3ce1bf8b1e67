"""From a folder of pictures and pairs to batches: readers, check, sampler, augmentation, pipeline."""
