"""Points, tiles and ground footprints: plain geometry without pictures or MindSpore."""
