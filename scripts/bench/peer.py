"""The peer: `mlx_lm.server` with the same BLAS as LMX, on the arguments it is given."""

import sys

from lmx.engines.mlx import blas

if __name__ == "__main__":
    blas.prepare()
    from mlx_lm.server import main  # after the BLAS is in place

    sys.argv[0] = "mlx_lm.server"
    main()
