"""A model's card as clients read it. Touches no disk."""

from lmx.catalog.anatomy import Anatomy
from lmx.catalog.memory_plan import MemoryPlan
from lmx.daemon.cards import Card
from lmx.daemon.loader import Loader
from lmx.protocol.values import Purpose
from lmx.schema.admin import LoadedModel
from lmx.schema.card import MemoryEstimate, ModelCard, TemplateCard
from lmx.text.dialects import Dialect
from lmx.web.admin_views import gigabytes, loaded_rows

CAPABILITIES: dict[Purpose, list[str]] = {
    "generation": ["chat", "completions", "tools", "json-schema"],
    "embedding": ["embeddings"],
    "reranking": ["rerank", "score"],
}


def card_reply(card: Card, loader: Loader) -> ModelCard:
    """The document of one model."""
    loaded = next((row for row in loaded_rows(loader) if row.id == card.model_id), None)
    anatomy, plan = card.anatomy, card.plan
    if anatomy is None or plan is None:
        return _fake_card(card.model_id, loader, loaded)
    bits = anatomy.bits_per_weight
    is_generative = anatomy.purpose == "generation"
    thinks = is_generative and card.dialect.reasoning is not None
    return ModelCard(
        model_id=card.model_id,
        path=str(anatomy.path),
        format=anatomy.format,
        architecture=anatomy.architecture or None,
        parameter_count=anatomy.parameter_count,
        layer_count=anatomy.layer_count or None,
        hidden_size=anatomy.hidden_size or None,
        vocabulary_size=anatomy.vocabulary_size or None,
        context_length=anatomy.context_tokens,
        quantisation=anatomy.quantisation or None,
        bits_per_weight=None if bits is None else round(bits, 2),
        size_bytes=anatomy.weight_bytes,
        purpose=anatomy.purpose,
        capabilities=CAPABILITIES[anatomy.purpose] + ["reasoning"] * thinks,
        template=_template(anatomy, card.dialect) if is_generative else None,
        estimate=_estimate(plan, loader, is_loaded=loaded is not None),
        loaded=loaded,
    )


def _fake_card(model_id: str, loader: Loader, loaded: LoadedModel | None) -> ModelCard:
    model = loader.models.get(model_id)
    ready = None if model is None else model.ready
    purpose: Purpose = "generation" if ready is None else ready.loaded.info.purpose
    return ModelCard(
        model_id=model_id,
        format="fake",
        purpose=purpose,
        capabilities=CAPABILITIES[purpose],
        loaded=loaded,
    )


def _template(anatomy: Anatomy, dialect: Dialect) -> TemplateCard | None:
    if anatomy.template is None:
        return None
    return TemplateCard(
        has_tools="tools" in anatomy.template,
        tool_syntax=None if dialect.tools == "none" else dialect.tools,
        has_reasoning=dialect.reasoning is not None,
        reasoning_opening=None if dialect.reasoning is None else dialect.reasoning.opening,
    )


def _estimate(plan: MemoryPlan, loader: Loader, *, is_loaded: bool) -> MemoryEstimate:
    free = max(0, loader.room.ledger.free)
    per_token = plan.kv_bytes_per_token
    return MemoryEstimate(
        weights_gb=gigabytes(plan.weights),
        kv_cache_gb=gigabytes(plan.kv_cache),
        work_gb=gigabytes(plan.transient),
        total_gb=gigabytes(plan.total),
        kv_bytes_per_token=per_token,
        cache_tokens=plan.kv_cache // per_token if per_token else None,
        context_length=plan.context_tokens,
        free_gb=gigabytes(free),
        fits=is_loaded or plan.total <= free,
    )
