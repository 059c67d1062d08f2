"""What benchmarks share: load, servers and the bare engine. Not part of the product."""
