"""What the route answers that looks at one model closely. Sizes are in 10^9 bytes."""

from msgspec import Struct

from lmx.schema.admin import LoadedModel


class TemplateCard(Struct, frozen=True, kw_only=True):
    """A model's own chat template.

    Attributes:
        has_tools: It has a place for tools; without one, tools are taught in the prompt.
        tool_syntax: How calls are spelled, by the name of the family; or `None`.
        has_reasoning: It marks what the model thinks.
        reasoning_opening: What opens reasoning; or `None`.
    """

    has_tools: bool
    tool_syntax: str | None
    has_reasoning: bool
    reasoning_opening: str | None


class MemoryEstimate(Struct, frozen=True, kw_only=True):
    """What a load would take: weights, cache and work space together are the total.

    Attributes:
        kv_bytes_per_token: What a token adds to the cache of a sequence.
        cache_tokens: Tokens of all sequences together that the cache has room for.
        context_length: Of one sequence.
        free_gb: What other models leave of the budget.
        fits: It could be loaded now beside those that are loaded.
    """

    weights_gb: float
    kv_cache_gb: float
    work_gb: float
    total_gb: float
    kv_bytes_per_token: int
    cache_tokens: int | None
    context_length: int
    free_gb: float
    fits: bool


class ModelCard(Struct, frozen=True, kw_only=True):
    """A model on disk or in memory.

    Attributes:
        path: Its directory or file; `None` without files, as all that is of files.
        context_length: What it was trained with.
        bits_per_weight: On disk, with scales and all.
        size_bytes: Of its weights on disk.
        purpose: ``generation``, ``embedding`` or ``reranking``.
        capabilities: Routes and features that it can be used for.
        estimate: Made by the settings that hold now.
        loaded: How it is run, while it is loaded.
    """

    model_id: str
    path: str | None = None
    format: str | None = None
    architecture: str | None = None
    parameter_count: int | None = None
    layer_count: int | None = None
    hidden_size: int | None = None
    vocabulary_size: int | None = None
    context_length: int | None = None
    quantisation: str | None = None
    bits_per_weight: float | None = None
    size_bytes: int | None = None
    purpose: str
    capabilities: list[str]
    template: TemplateCard | None = None
    estimate: MemoryEstimate | None = None
    loaded: LoadedModel | None = None
