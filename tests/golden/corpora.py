"""The whole corpus, by family."""

from tests.golden import (
    command_r,
    deepseek,
    gemma,
    glm,
    harmony,
    hermes,
    kimi,
    llama3,
    minimax,
    mistral,
    pythonic,
    qwen3_coder,
)
from tests.golden.scenarios import Case, Corpus

CORPORA: dict[str, Corpus] = {
    corpus.dialect.tools: corpus
    for corpus in (
        command_r.CORPUS,
        deepseek.CORPUS,
        gemma.CORPUS,
        gemma.GEMMA4,
        glm.CORPUS,
        glm.LONGCAT,
        harmony.CORPUS,
        hermes.CORPUS,
        kimi.CORPUS,
        llama3.CORPUS,
        minimax.CORPUS,
        minimax.DSML,
        mistral.CORPUS,
        pythonic.CORPUS,
        qwen3_coder.CORPUS,
        qwen3_coder.SEED,
    )
}

# (family, name) to case, for tests that take one at a time.
CASES: dict[tuple[str, str], Case] = {
    (family, name): case
    for family, corpus in CORPORA.items()
    for name, case in corpus.cases().items()
}
