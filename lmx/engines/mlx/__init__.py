"""The MLX engine. `lmx.engines.load_engine` prepares the BLAS, then calls `loading.load_engine`.

Importing this package imports neither MLX nor mlx-lm: OpenBLAS must be in the process first, and
a worker for another engine should not pay for them.
"""
