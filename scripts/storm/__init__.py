"""What `scripts/kill_storm.py` and `scripts/soak.py` are made of."""
