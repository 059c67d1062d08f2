"""A quantised GGUF file written again with half-precision weights, for comparing engines exactly.

Two engines agree on greedy text only where they compute with the same numbers: quantised kernels
round activations too, half-precision weights do not change when they are widened to float32.
"""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize
from gguf.constants import LlamaFileType

from scripts.bench.random_gguf import NOT_COPIED, copy_metadata


def write_half_precision(source: Path, target: Path) -> Path:
    """Copy `source` to `target` with matrices as F16 and vectors as F32; returns `target`."""
    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target, architecture)
    copy_metadata(reader, writer, NOT_COPIED)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, GGMLQuantizationType(tensor.tensor_type))
        is_matrix = values.ndim > 1
        writer.add_tensor(tensor.name, values.astype(np.float16 if is_matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
