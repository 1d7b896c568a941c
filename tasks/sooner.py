"""The same answers, sooner: what lm-eval's model class is wrapped in.

On the quickstart's tasks lm-eval spends most of its time on tokens that are encoded twice, on padding, and on logits
that it then throws away; with the vocabulary of a real model those logits are also what runs out of memory.
"""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Any as Harness  # lm_eval.models.huggingface.HFLM
else:
    Harness = object


class Sooner(Harness):  # type: ignore[misc]
    """To be mixed in before lm-eval's HFLM. One progress bar a kind of request, and only on a terminal.

    The signatures are lm-eval's; `disable_tqdm` is not followed, since where a bar is shown is decided here.
    """

    def __init__(self, pretrained: Any, **settings: Any) -> None:
        super().__init__(pretrained=pretrained, **settings)
        self._silent = not sys.stderr.isatty() or parent_process() is not None  # siblings' bars overwrite each other
        self._can_keep = "logits_to_keep" in inspect.signature(pretrained.forward).parameters
        self._scored: int | None = None  # how many tokens of a row are scored at most; None for all
        self._encoded: dict[str, list[int]] = {}
        pretrained.config.use_cache = False  # one pass a row: keys and values would be kept for nothing

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """lm-eval batches these as they come and pads each batch to its longest; here they go by length."""
        from tqdm import tqdm

        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].args[0]))
        answers: dict[int, float] = {}
        with self._measured_batch() as size:
            for start in tqdm(range(0, len(order), size), desc="Rolling requests", disable=self._silent):
                batch = order[start : start + size]
                found = super().loglikelihood_rolling([requests[i] for i in batch], disable_tqdm=True)
                answers.update(zip(batch, found, strict=True))
        return [answers[i] for i in range(len(requests))]

    @contextmanager
    def _measured_batch(self) -> Iterator[int]:
        """The batch size as a number: `auto` is measured once, where lm-eval would measure for every batch."""
        asked = self.batch_size
        if asked == "auto":
            self._scored = None
            self.batch_size_per_gpu = self._detect_batch_size()
        try:
            yield self.batch_size_per_gpu
        finally:
            self.batch_size_per_gpu = asked

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Each text is encoded once, all of them in one call: a question comes with every one of its choices."""
        self._encoded = self._encode_all([request.args for request in requests])
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=self._silent)
        self._encoded = {}
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """As lm-eval's, silent where there is no terminal."""
        self.batch_sizes: dict[int, int] = {}  # lm-eval keeps what `auto` measured for another task
        found: list[str] = super().generate_until(requests, disable_tqdm=self._silent)
        return found

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **settings: Any) -> list[int]:
        """The tokens of `string`, from those encoded together where nothing special is asked."""
        if add_special_tokens is None and not settings and string in self._encoded:
            return self._encoded[string]
        found: list[int] = super().tok_encode(string, add_special_tokens=add_special_tokens, **settings)
        return found

    def _encode_all(self, pairs: list[tuple[str, str]]) -> dict[str, list[int]]:
        texts = dict.fromkeys(text for question, answer in pairs for text in (question.rstrip(), question + answer))
        bos = self.tokenizer.decode(self.prefix_token_id)
        plain = [text for text in texts if text and not text.lstrip().startswith(bos)]  # lm-eval adds no second one
        asked = {} if self.add_bos_token is None else {"add_special_tokens": self.add_bos_token}
        return dict(zip(plain, self.tokenizer(plain, **asked)["input_ids"], strict=True)) if plain else {}

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None) -> Any:
        rolling = override_bs is not None
        self._scored = None if rolling or not self._can_keep else max(len(answer) for _, _, answer in requests)
        return super()._loglikelihood_tokens(requests, disable_tqdm=self._silent or rolling, override_bs=override_bs)

    def _model_call(self, inps: Any, attn_mask: Any = None, labels: Any = None) -> Any:
        """Logits of `inps` (rows, tokens); of the last tokens only, where lm-eval throws the others away."""
        if self._scored is None:
            return super()._model_call(inps, attn_mask, labels)
        import torch

        # rows are padded on the right with zeros; a row that itself ends in zeros only makes us keep some more
        shortest = int((inps != 0).cumsum(1).argmax(1).min()) + 1
        with torch.inference_mode():
            return self.model(inps, logits_to_keep=inps.shape[1] - shortest + self._scored).logits
