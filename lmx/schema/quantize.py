"""What the routes of quantisations take and answer. Sizes are in bytes, times in epoch seconds."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from lmx.errors import InvalidRequest
from lmx.schema.admin_requests import Name, parse_body

QuantizeStatus = Literal["pending", "running", "completed", "failed", "cancelled"]


class QuantizeRequest(Struct, kw_only=True):
    """Which model to write again with smaller weights.

    Attributes:
        model_id: The same as `source_model`.
        output_path: A directory that is not there yet, in one of the folders of models; a relative
            one is below ``quantized`` in LMX's own folder.
        mode: ``symmetric`` is done as ``affine``, which can express it.
    """

    source_model: Name | None = None
    model_id: Name | None = None
    output_path: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    bits: Literal[4, 8] | None = None
    group_size: Literal[32, 64, 128] | None = None
    mode: Literal["affine", "symmetric"] | None = None

    @property
    def source(self) -> str:
        """The model that is meant.

        Raises:
            InvalidRequest: None is.
        """
        name = self.source_model or self.model_id
        if name is None:
            raise InvalidRequest("'source_model' is needed", param="source_model")
        return name


class QuantizeRow(Struct, frozen=True, kw_only=True):
    """A quantisation, and how far it is."""

    job_id: str
    source_model: str
    model_id: str
    output_path: str
    bits: int
    target_bits: int
    group_size: int
    mode: str
    status: QuantizeStatus
    progress_percent: float
    created_at: float
    started_at: float | None
    completed_at: float | None
    duration_sec: float | None
    output_size_bytes: int | None
    output_size_gb: float | None
    error: str | None
    error_code: str | None


class QuantizeList(Struct, frozen=True, kw_only=True):
    """Quantisations, the latest first."""

    jobs: list[QuantizeRow]
    count: int


class QuantizeCancelReply(Struct, frozen=True, kw_only=True):
    """Whether a quantisation was ended, or had ended before."""

    cancelled: bool
    job_id: str
    status: QuantizeStatus


def parse_quantize_request(body: bytes) -> QuantizeRequest:
    """Read a body of the quantize route.

    Raises:
        InvalidRequest: Malformed, or without a model.
    """
    request = parse_body(body, QuantizeRequest)
    _ = request.source
    return request
