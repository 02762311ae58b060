"""Small tokenizers of both kinds, in the files that Hugging Face's libraries write."""

import io
import json
from pathlib import Path
from typing import Any

TEXTS = [
    "Hello world, the quick brown fox jumps over the lazy dog.",
    "I'm sure you're right: 3 33 333 3333 times, we've SEEN it!",
    "  two  spaces\n\n\tand a tab\r\nnaïve café — ça va? 東京タワー 🙂",
    "def f(x):\n    return x ** 2  # squared",
]
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(folder: Path, size: int) -> Any:
    """Llama 3's kind with fewer than `size` tokens; the tokenizer of the `tokenizers` library."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    native = Tokenizer(models.BPE(ignore_merges=True))
    native.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    native.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size - 8, initial_alphabet=alphabet, show_progress=False)
    native.train_from_iterator(TEXTS * 3, trainer)
    native.add_special_tokens(["<|begin|>", "<|endoftext|>"])
    native.add_tokens(["<tool>", "<|looks_special|>"])
    begin = native.token_to_id("<|begin|>")
    native.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", begin)]
    )
    kind: Any = PreTrainedTokenizerFast
    fast = kind(tokenizer_object=native, bos_token="<|begin|>", eos_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return native


def sentencepieces(folder: Path, *, prefix: bool, added: dict[str, Any] | None = None) -> Any:
    """`tokenizer.model` with 400 pieces; the processor of the `sentencepiece` library.

    Args:
        prefix: a text gets a space in front.
        added: what `tokenizer_config.json` says of tokens besides.
    """
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        character_coverage=1.0,
        pad_id=3,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "chat_template": TEMPLATE,
        "added_tokens_decoder": added or {},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    processor = SentencePieceProcessor()
    processor.LoadFromSerializedProto(model.getvalue())
    return processor
