"""Long work that outlives its clients and the daemon itself: downloads and quantisations."""
