"""Examination of what a machine has and lacks for each device target; imported when a device can't be used."""
