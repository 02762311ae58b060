"""Deterministic texts: many scripts, code, emoji, control characters, look-alikes of special tokens."""

import random
from collections.abc import Callable

WORDS = {
    "english": "the of model tokens don't we'll I'VE it's running Unbelievable HTTPServer camelCase naïve",
    "german": "Straße Größe überall Donaudampfschifffahrtsgesellschaft nicht Äpfel weiß Fußgängerübergänge",
    "french": "l'été où garçon déjà œuvre aujourd'hui c'est-à-dire Noël français",
    "polish": "zażółć gęślą jaźń źdźbło Łódź cześć",
    "turkish": "İstanbul ılık ağaç Türkiye'de çalışıyor şöyle",
    "vietnamese": "Việt Nam tiếng nước không được những người",
    "russian": "Съешь ещё этих мягких французских булок да выпей чаю Москва программирование",
    "greek": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία Ελληνικά γλώσσα ΣΊΣΥΦΟΣ",
    "hebrew": "שלום עולם דג סקרן שט בים מאוכזב",
    "arabic": "مرحبا بالعالم صِف خَلقَ خَودٍ كَمِثلِ الشَمسِ ١٢٣٤",
    "hindi": "नमस्ते दुनिया हिन्दी में लिखा क्षेत्र ज्ञान १२३",
    "tamil": "வணக்கம் உலகம் தமிழ் மொழி",
    "thai": "สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง ๑๒๓",
    "chinese": "我能吞下玻璃而不伤身体。 人工智能模型 繁體中文測試 「引號」 ，，、",
    "japanese": "こんにちは世界 カタカナ 日本語のテキスト ｶﾀｶﾅ 々〆〇",
    "korean": "안녕하세요 세계 한국어 형태소 모델이",
    "georgian": "გამარჯობა მსოფლიო ქართული",
    "ethiopic": "ሰላም ልዑል ኢትዮጵያ",
    "combining": "e\u0301a\u0308o\u0302 n\u0303 Z\u0351\u036b\u0343a\u0344lgo ﬁ ﬀ Å ½ ² Ⅷ ㎏ ｆｕｌｌ",
}
EMOJI = (
    "😀",
    "👩\u200d👩\u200d👧\u200d👦",
    "🏳️\u200d🌈",
    "👍🏽",
    "🇩🇪🇯🇵",
    "❤️",
    "1️⃣",
    "🧑🏿\u200d💻",
    "☃",
    "✈︎",
    "🫠",
)
CODE = (
    "def f(x: int) -> str:\n    return f'{x!r:>10}'  # comment\n",
    "for (int i = 0; i < n; ++i) {\n\t\ta[i] += b[i] * 0x1F;\r\n}\r\n",
    '<div class="a b">\n  <s>old</u> &amp; <h3>Title</h3>\n</div>\n\n\n',
    "SELECT * FROM t WHERE a >= 10 AND b != 'x''y';\n",
    '{"key": [1, 2.5e-10, null], "ü": "\\u00fc\\n"}\n',
    "$ grep -rn 'foo|bar' ./src | awk '{print $2}' && echo done\n",
)
SPECIAL_LOOKALIKES = (
    "<|im_start|>user\n",
    "<|im_end|>",
    "<|endoftext|>",
    "<start_of_turn>model\n",
    "<end_of_turn>\n",
    "<bos>",
    "<eos>",
    "<unk>",
    "<pad>",
    "<unused17>",
    "<unused6241>",
    "<0x0A>",
    "[INST] x [/INST]",
    "<s>",
    "<|im_",
    "<|im_start",
    "<repo_name>",
    "<jupyter_code>",
    "[multimodal]",
    "<start_of_image>",
    "<|eot_id|>",
)
SPACES = (
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    " \n",
    "\u00a0",
    "\u3000",
    "\u2009",
    " " * 40,
    "\n" * 40,
)
NUMBERS = ("0", "7", "42", "2026", "12345678901234567890", "3.14159", "1,000,000", "½", "Ⅻ", "٣٤")
# Blocks of Unicode that have been complete for long, so that every library knows them alike.
RANGES = (
    (0x00, 0x20),
    (0x7F, 0xA1),
    (0xA1, 0x180),
    (0x250, 0x2B0),
    (0x300, 0x370),
    (0x400, 0x530),
    (0x600, 0x6FF),
    (0x904, 0x950),
    (0xE01, 0xE3B),
    (0x1E00, 0x1F16),
    (0x2000, 0x2065),
    (0x2190, 0x23FF),
    (0x2500, 0x2800),
    (0x3041, 0x3097),
    (0x4E00, 0x9FA6),
    (0xAC00, 0xD7A4),
    (0xE000, 0xE010),
    (0xFE00, 0xFE10),
    (0xFF01, 0xFFBF),
    (0x10000, 0x1000C),
    (0x1D400, 0x1D455),
    (0x1F300, 0x1F64F),
    (0x20000, 0x20100),
    (0xE0020, 0xE007F),
)


def sample(size: int, seed: int = 0, *, special: bool = True) -> str:
    """At least `size` UTF-8 bytes, the same for the same arguments."""
    rng = random.Random(seed)
    makers: list[Callable[[], str]] = [
        lambda: _sentence(rng),
        lambda: _sentence(rng),
        lambda: _sentence(rng),
        lambda: rng.choice(CODE),
        lambda: "".join(rng.choices(EMOJI, k=rng.randint(1, 4))),
        lambda: rng.choice(SPACES),
        lambda: rng.choice(NUMBERS),
        lambda: "".join(_character(rng) for _ in range(rng.randint(1, 12))),
    ]
    if special:
        makers.append(lambda: rng.choice(SPECIAL_LOOKALIKES))
    parts: list[str] = []
    length = 0
    while length < size:
        part = rng.choice(makers)()
        parts.append(part)
        length += len(part.encode())
    return "".join(parts)


def _sentence(rng: random.Random) -> str:
    words = WORDS[rng.choice(list(WORDS))].split()
    chosen = [rng.choice((word, word, word.upper(), word.title())) for word in rng.choices(words, k=8)]
    return " ".join(chosen) + rng.choice((". ", "! ", "?\n", ", ", "… ", ";\n\n", ""))


def _character(rng: random.Random) -> str:
    low, high = rng.choice(RANGES)
    return chr(rng.randrange(low, high))
