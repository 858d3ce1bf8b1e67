"""Plain geometry: distances between places, ground footprints of cameras, tiles of a map."""
