"""Whether a model has embeddings for the tokens that its tokenizer makes."""

from typing import Any

from personavec.errors import UserError
from personavec.model.template import Template


def check_vocabulary(id: str, tokenizer: Any, template: Template, rows: int) -> str | None:
    """Refuse a tokenizer some of whose tokens the model has no row for.

    Special tokens that no prompt holds may be without one, as the picture's mark of a family's models of text alone:
    what spells them in a text is read as plain characters.

    Args:
        id: What the user calls the model.
        rows: How many tokens the embedding has rows for.

    Returns:
        A note for the user where there are such, else None.

    Raises:
        UserError: A text can hold one of the tokens that are too many.
    """
    vocabulary = tokenizer.get_vocab()
    beyond = {token: place for token, place in vocabulary.items() if place >= rows}
    if not beyond:
        return None
    special = {place for place, token in tokenizer.added_tokens_decoder.items() if token.special}
    # Not the one for what is unknown: where it can come up, it is among the words.
    names = ("pad_token_id", "eos_token_id", "bos_token_id")
    needed = {getattr(tokenizer, name, None) for name in names} | _written(template)
    used = sorted(token for token, place in beyond.items() if place not in special or place in needed)
    counts = (
        f"The tokenizer of {id!r} has {len(vocabulary)} tokens, up to id {max(vocabulary.values())}, and its embedding "
        f"{rows} rows"
    )
    if used:
        raise UserError(
            f"{counts}: there is none for {len(used)} of the tokens, such as {used[0]!r}.",
            "Give the tokenizer that the model was trained with, or train it with rows for the new tokens "
            "(model.resize_token_embeddings(len(tokenizer))).",
        )
    return f"{counts}; no text holds the others: {', '.join(sorted(beyond)[:3])}."


def _written(template: Template) -> set[int]:
    """Ids that the template writes by itself."""
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant")]
    system = [{"role": "system", "content": "x"}] if template.has_system_role else []
    ids = {*template.prompt_ids([*system, *turns, turns[0]])}
    for conversation in template.conversations([*system, *turns]):
        ids |= set(conversation.ids)
    return ids | set(template.empty_thought)
