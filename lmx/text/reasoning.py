"""How models mark what they think: one table of opening and closing markers.

Templates differ in who writes the opening marker. Some end the prompt with it, so the answer
begins inside the reasoning and only the closing marker is ever generated; `ends_in_opening` sees
that on the rendered prompt.
"""

from collections.abc import Collection

import msgspec


class ReasoningMarkers(msgspec.Struct, frozen=True):
    """What stands before and after reasoning.

    Attributes:
        opening: Before it.
        closing: After it.
        tokens: What a vocabulary holds that knows these markers; the two themselves if empty.
    """

    opening: str
    closing: str
    tokens: tuple[str, ...] = ()


# By name, the more particular first: the first row whose closing marker a model knows is its own.
REASONING: dict[str, ReasoningMarkers] = {
    # gpt-oss (openai/gpt-oss-20b); read by the harmony reader, which knows all its channels.
    "harmony": ReasoningMarkers("<|channel|>analysis<|message|>", "<|end|>"),
    # ByteDance-Seed/Seed-OSS-36B-Instruct.
    "seed": ReasoningMarkers("<seed:think>", "</seed:think>"),
    # meituan-longcat/LongCat-Flash-Thinking.
    "longcat": ReasoningMarkers("<longcat_think>", "</longcat_think>"),
    # moonshotai/Kimi-VL-A3B-Thinking, Kimi-Dev; Kimi-K2-Thinking uses <think>.
    "kimi": ReasoningMarkers("◁think▷", "◁/think▷"),
    # Kimi K3, as mlx-lm 0.32 knows it.
    "kimi_k3": ReasoningMarkers(
        "<|open|>think<|sep|>",
        "<|close|>think<|sep|>",
        ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),
    ),
    # CohereLabs/c4ai-command-r7b-12-2024, command-a-reasoning.
    "command_r": ReasoningMarkers("<|START_THINKING|>", "<|END_THINKING|>"),
    # mistralai/Magistral-Small-2507 and later.
    "mistral": ReasoningMarkers("[THINK]", "[/THINK]"),
    # Gemma 4, as mlx-lm 0.32 knows it: a channel named "thought".
    "gemma4": ReasoningMarkers("<|channel>thought", "<channel|>", ("<|channel>", "<channel|>")),
    # As mlx-lm 0.32 knows it.
    "think_tokens": ReasoningMarkers("<|think:start|>", "<|think:end|>"),
    # Qwen3, QwQ, DeepSeek-R1 and V3.1, GLM-4.5 and later, MiniMax-M2, Kimi-K2-Thinking, and others.
    "think": ReasoningMarkers("<think>", "</think>"),
    # Prompted or fine-tuned without tokens of their own.
    "thinking": ReasoningMarkers("<thinking>", "</thinking>"),
    # LGAI-EXAONE/EXAONE-Deep.
    "thought": ReasoningMarkers("<thought>", "</thought>"),
}


def find_reasoning(template: str, tokens: Collection[str]) -> ReasoningMarkers | None:
    """The markers a model knows, from its template's text and its vocabulary; None if it has none.

    The template decides before the vocabulary: fine-tunes keep tokens they do not use.
    """
    for markers in REASONING.values():
        if markers.closing in template and markers.opening in template:
            return markers
    # Many templates only cut reasoning out of the history, at its closing marker.
    if REASONING["think"].closing in template:
        return REASONING["think"]
    for markers in REASONING.values():
        if all(token in tokens for token in markers.tokens or (markers.opening, markers.closing)):
            return markers
    return None


def ends_in_opening(prompt: str, markers: ReasoningMarkers) -> bool:
    """Whether a rendered prompt leaves the model inside its reasoning.

    Only the very end counts: an opening marker further up may be a user's own words.
    """
    return prompt.rstrip().endswith(markers.opening)
