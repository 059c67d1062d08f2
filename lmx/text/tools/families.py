"""All families by name."""

from lmx.text.tools.command_r import COMMAND_R
from lmx.text.tools.deepseek import DEEPSEEK
from lmx.text.tools.family import NO_TOOLS, Family
from lmx.text.tools.gemma import GEMMA, GEMMA4
from lmx.text.tools.glm import GLM, LONGCAT
from lmx.text.tools.harmony import HARMONY
from lmx.text.tools.hermes import HERMES
from lmx.text.tools.kimi import KIMI
from lmx.text.tools.llama3 import LLAMA3
from lmx.text.tools.minimax import DEEPSEEK_V32, MINIMAX
from lmx.text.tools.mistral import MISTRAL
from lmx.text.tools.pythonic import PYTHONIC
from lmx.text.tools.qwen3_coder import QWEN3_CODER, SEED

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        NO_TOOLS,
        COMMAND_R,
        DEEPSEEK,
        DEEPSEEK_V32,
        GEMMA,
        GEMMA4,
        GLM,
        HARMONY,
        HERMES,
        KIMI,
        LLAMA3,
        LONGCAT,
        MINIMAX,
        MISTRAL,
        PYTHONIC,
        QWEN3_CODER,
        SEED,
    )
}
