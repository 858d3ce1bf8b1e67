"""Make a data set in GTA-UAV's layout from a seed."""
