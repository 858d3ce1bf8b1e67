"""What a machine has and lacks for each device target, found without MindSpore's help and told apart by cause."""
