"""What requests get, in OpenAI's shapes."""

from collections.abc import Callable, Sequence

from pydantic import JsonValue

from personavec.serving.engine import DrawnToken

LOWEST = -9999.0  # what OpenAI writes for the logarithm of nothing
Json = dict[str, JsonValue]
Name = Callable[[int], str]  # the text of a token by itself


class ChatShape:
    """How `/v1/chat/completions` tells a choice: its beginning, its pieces, its end, and all at once."""

    prefix, object, chunk = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def opening(self) -> Json:
        """Who speaks."""
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def piece(self, text: str, logprobs: Json | None) -> Json:
        """Some text."""
        return {"delta": {"content": text}, "logprobs": logprobs}

    def closing(self) -> Json:
        """No more text."""
        return {"delta": {}, "logprobs": None}

    def whole(self, text: str, logprobs: Json | None) -> Json:
        """A message."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": logprobs}

    def logprobs(self, tokens: Sequence[DrawnToken], name: Name, start: int) -> Json:
        """Of each token, with the likeliest ones at its place."""
        return {
            "content": [
                {
                    **_likely(token.id, token.logprob or 0.0, name),
                    "top_logprobs": [_likely(id, value, name) for id, value in token.top],
                }
                for token in tokens
            ],
            "refusal": None,
        }


class CompletionShape:
    """How `/v1/completions` does."""

    prefix, object, chunk = "cmpl-", "text_completion", "text_completion"

    def opening(self) -> Json:
        """No text yet."""
        return {"text": "", "logprobs": None}

    def piece(self, text: str, logprobs: Json | None) -> Json:
        """Some text."""
        return {"text": text, "logprobs": logprobs}

    def closing(self) -> Json:
        """No more text."""
        return {"text": "", "logprobs": None}

    def whole(self, text: str, logprobs: Json | None) -> Json:
        """All text."""
        return {"text": text, "logprobs": logprobs}

    def logprobs(self, tokens: Sequence[DrawnToken], name: Name, start: int) -> Json:
        """Of all tokens in four lists; `start` is how many characters came before."""
        names = [name(token.id) for token in tokens]
        return {
            "tokens": [*names],
            "token_logprobs": [max(token.logprob or 0.0, LOWEST) for token in tokens],
            "top_logprobs": [{name(id): max(value, LOWEST) for id, value in token.top} for token in tokens],
            "text_offset": [start + sum(map(len, names[:i])) for i in range(len(names))],
        }


Shape = ChatShape | CompletionShape


def _likely(id: int, value: float, name: Name) -> Json:
    text = name(id)
    return {"token": text, "logprob": max(value, LOWEST), "bytes": None if "\ufffd" in text else [*text.encode()]}


def usage(prompt: int, completion: int) -> Json:
    """Tokens of a request and its answers."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
