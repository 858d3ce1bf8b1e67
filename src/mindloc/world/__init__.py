"""Generated maps and the views of them: GTA-UAV-layout data sets from a seed."""
