"""A tokenizer with more tokens than the embedding has rows."""

from pathlib import Path

import pytest

from personavec.errors import UserError
from personavec.model import ChatModel, Request, load_model
from personavec.model.checkpoint import open_checkpoint
from tiny import CHATML, causal_model, qwen2, tokenizer

LEN = len(tokenizer())


@pytest.mark.parametrize("rows", [290, LEN - 1], ids=["words", "the end of a turn"])
def test_tokens_without_a_row_are_refused(rows: int, tmp_path: Path) -> None:
    """What is saved comes back with one token more, <|endoftext|>, which transformers adds to a Qwen2 tokenizer."""
    causal_model(qwen2(vocab_size=rows)).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    for load in (load_model, open_checkpoint):
        with pytest.raises(UserError, match=rf"up to id {LEN}, and its embedding {rows} rows: there is none for"):
            load(str(tmp_path), device="cpu", dtype="float32")


def test_a_token_that_was_added_to_the_words_is_refused() -> None:
    with pytest.raises(UserError, match=rf"has {LEN + 1} tokens, .* {LEN} rows: .* 1 of the tokens, such as '<think>'"):
        ChatModel(causal_model(qwen2(vocab_size=LEN)), tokenizer(added=["<think>"]), "m")


def test_a_padding_token_without_a_row_is_refused() -> None:
    words = tokenizer()
    words.add_special_tokens({"pad_token": "[PAD]"})
    with pytest.raises(UserError, match=rf"has {LEN + 1} tokens.* 1 of the tokens, such as '\[PAD\]'"):
        ChatModel(causal_model(qwen2(vocab_size=LEN)), words, "m")


def test_a_special_token_that_the_template_writes_is_refused() -> None:
    words = tokenizer(CHATML.replace("<|im_start|>", "<|turn|>"))
    words.add_tokens(["<|turn|>"], special_tokens=True)
    with pytest.raises(UserError, match=r"1 of the tokens, such as '<\|turn\|>'"):
        ChatModel(causal_model(qwen2(vocab_size=LEN)), words, "m")


def test_a_special_token_that_no_text_holds_needs_no_row() -> None:
    """As the mark of a picture in a family whose smallest models read text alone; a text that spells it is text."""
    words = tokenizer()
    words.add_tokens(["<image>"], special_tokens=True)
    model = ChatModel(causal_model(qwen2(vocab_size=LEN)), words, "m")
    assert f"has {LEN + 1} tokens, up to id {LEN}, and its embedding {LEN} rows" in model.template.notes[-1]
    ids = model.prompt_ids([{"role": "user", "content": "see <image> here"}])
    assert max(ids) < LEN
    assert len(model.generate([Request(ids, 4, 0.0)])[0].ids) <= 4


def test_a_word_for_what_is_unknown_needs_no_row_where_all_is_known(tmp_path: Path) -> None:
    causal_model(qwen2(vocab_size=LEN)).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = load_model(str(tmp_path), device="cpu", dtype="float32")
    assert len(model.tokenizer) == LEN + 1 and model.tokenizer.unk_token_id == LEN
    assert "no text holds the others: <|endoftext|>" in model.template.notes[-1]
