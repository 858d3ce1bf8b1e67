"""Launch of several processes that train together: rank tables, the plan of the processes, and their supervision."""
