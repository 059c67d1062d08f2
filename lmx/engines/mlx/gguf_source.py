"""A GGUF file as typed metadata and tensors.

Wraps the `gguf` package's reader, which trusts its input, so that damage shows as `CorruptModel`
and a legal value this version cannot use as `UnsupportedModel`. Knows nothing about what becomes
of the values.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, ReaderTensor, dequantize

from lmx.errors import CorruptModel, UnsupportedModel

GGUF_MAGIC = b"GGUF"


class GgufSource:
    """An open GGUF file; the tensors' data stay on disk until they are asked for.

    Attributes:
        path: Where the file is.
        tensors: Every tensor by its name in the file.
    """

    def __init__(self, path: Path) -> None:
        """Read the header and check that the file holds all its tensors.

        Raises:
            CorruptModel: No GGUF file, or a damaged or incomplete one.
        """
        self.path = path
        self.tensors: dict[str, ReaderTensor] = {}
        self._values: dict[str, Any] = {}
        try:
            with path.open("rb") as file:
                magic = file.read(len(GGUF_MAGIC))
        except OSError as error:
            raise CorruptModel(f"{path} cannot be read: {error.strerror}") from error
        if magic != GGUF_MAGIC:
            raise CorruptModel(f"{path.name} is not a GGUF file")
        try:
            reader = GGUFReader(path)
            self._values = {name: field.contents() for name, field in reader.fields.items()}
        except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
            raise CorruptModel(f"{path.name} is damaged or incomplete: {error}") from error
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}

    def has(self, key: str) -> bool:
        """Whether the metadata has this key."""
        return key in self._values

    def text(self, key: str, default: str | None = None) -> str:
        """A string value.

        Raises:
            CorruptModel: It is missing without a default, or of another type.
        """
        value = self._values.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def flag(self, key: str) -> bool:
        """A truth value; missing is false."""
        return self._values.get(key) is True

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number.

        Raises:
            CorruptModel: It is missing without a default, or of another type.
            UnsupportedModel: It is one number per layer.
        """
        value = self._values.get(key, default)
        if isinstance(value, list):
            raise UnsupportedModel(f"{self.path.name} varies {key} by layer")
        if not isinstance(value, int):
            raise self._wrong(key, "a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number.

        Raises:
            CorruptModel: It is missing without a default, or of another type.
        """
        value = self._values.get(key, default)
        if not isinstance(value, int | float):
            raise self._wrong(key, "a number")
        return float(value)

    def texts(self, key: str) -> list[str]:
        """A list of strings.

        Raises:
            CorruptModel: It is missing or of another type.
        """
        value = self._values.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, "a list of strings")
        return value

    def integers(self, key: str) -> list[int]:
        """A list of whole numbers.

        Raises:
            CorruptModel: It is missing or of another type.
        """
        value = self._values.get(key)
        if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
            raise self._wrong(key, "a list of whole numbers")
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape in row-major order; GGUF stores it the other way round."""
        return tuple(int(size) for size in reversed(self.tensors[name].shape))

    def values(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor, dequantized.

        Raises:
            UnsupportedModel: Its quantization is unknown here.
            CorruptModel: It holds values that are no numbers.
        """
        tensor = self.tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        except NotImplementedError as error:
            kind = tensor.tensor_type.name
            raise UnsupportedModel(f"{name} is quantized as {kind}, unknown here") from error
        if not np.isfinite(values).all():
            raise CorruptModel(f"{name} in {self.path.name} holds values that are no numbers")
        return values

    def _wrong(self, key: str, expected: str) -> CorruptModel:
        return CorruptModel(f"{self.path.name} lacks {key}, or it is not {expected}")
