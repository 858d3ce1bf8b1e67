"""Generated worlds: data sets in GTA-UAV's layout, with a map and drone images of it, made from a seed."""
