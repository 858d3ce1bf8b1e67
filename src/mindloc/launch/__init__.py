"""Several processes that train together: rank tables, the plan of who runs what and where, and the watch over them."""
