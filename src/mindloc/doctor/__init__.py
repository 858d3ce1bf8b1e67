"""What a machine has and lacks for each device target, told apart by cause; imported when a device is refused."""
