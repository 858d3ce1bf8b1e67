"""What a machine has and lacks for each device target, by cause; imported when a device is refused."""
