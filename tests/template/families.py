"""Chat templates in Jinja like those of well-known families, written from the families' prompt formats."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As SmolLM2 and Qwen have it: a text of its own where no system message is given.
CHATML_WITH_DEFAULT_SYSTEM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_WITH_TOOLS = CHATML + "{% if tools %}{{ tools | tojson }}{% endif %}"
CHATML_WITH_THINKING = CHATML + "{% if enable_thinking %}{{ '<think>' }}{% endif %}"
CHATML_UPPER = CHATML.replace("message['content'] +", "message['content'] | upper +")
CHATML_LAST_FOUR = CHATML.replace("in messages %}", "in messages[-4:] %}")
CHATML_TITLED = CHATML.replace("message['role'] +", "message['role'] | title +")

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + "
    "message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'].strip() %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'].strip() %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
# As published: the system message keeps its blanks, which the others lose.
LLAMA2_AS_PUBLISHED = LLAMA2.replace("messages[0]['content'].strip() %}", "messages[0]['content'] %}")
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% else %}{{ raise_exception('Only user and assistant') }}"
    "{% endif %}"
    "{% endfor %}"
)
# Its blank after each answer is not in the known template.
MISTRAL_WITH_BLANK = MISTRAL.replace("+ eos_token }}", "+ eos_token + ' ' }}")
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}"
    "{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
GEMMA3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {{- message['content'] -}}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<start_of_turn>model\n'}}{%- endif -%}
"""
PHI3 = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
OPENCHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ message['content'] + '<|end_of_turn|>' }}{% else %}"
    "{{ 'GPT4 Correct ' + message['role'].title() + ': ' + message['content'] + '<|end_of_turn|>'}}"
    "{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}"
)
ALFRED = (
    "{% for message in messages %}"
    "{{ '<start_' + message['role'] + '>' + message['content'] + '<end_message>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_assistant>' }}{% endif %}"
)
COMMAND_R = (
    "{{ bos_token }}{% for message in messages %}{% set content = message['content'] %}"
    "{% if message['role'] == 'user' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}"
    "{% else %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
SOLAR = (
    "{% for message in messages %}"
    "{{ '### ' + message['role'].title() + ':\n' + message['content'] + '\n\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)
GRANITE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ 'System:\n' + message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'Question:\n' + message['content'] + '\n\n' }}"
    "{% else %}{{ 'Answer:\n' + message['content'] + '\n\n' }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ 'Answer:\n' }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + ' ' }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHATQA = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['role'].title() + ': ' + message['content'] + '\n\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
ALPACA = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{% else %}{{ '### Response:\n' + message['content'] + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
MAGICODER = ALPACA.replace("### Instruction:", "@@ Instruction").replace("### Response:", "@@ Response")
FALCON = (
    "{% for message in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '\nUser: ' + message['content'].replace('\n\n', '\n') }}"
    "{% else %}{{ '\nAssistant: ' + message['content'] }}{% endif %}{% endfor %}{{ '\n\nAssistant:' }}"
)
CODELLAMA = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'Source: user\n\n ' + message['content'] | trim + ' <step> ' }}{% elif message['role'] == 'system' %}"
    "{{ 'Source: system\n\n ' + message['content'] | trim + ' <step> ' }}{% else %}"
    "{{ 'Source: assistant\nDestination: user\n\n ' + message['content'] | trim + ' <step> ' }}{% endif %}"
    "{% endfor %}{{ 'Source: assistant\nDestination: user\n\n ' }}"
)
STARCODER2 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System messages are not allowed') }}{% endif %}{% endfor %}"
    "{{ 'You are an exceptionally intelligent coding assistant that consistently delivers accurate and "
    "reliable responses to user instructions.\n\n' }}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '### Instruction\n' + message['content'] + '\n\n' }}{% else %}"
    "{{ '### Response\n' + message['content'] + eos_token + '\n\n' }}{% endif %}{% endfor %}"
    "{{ '### Response\n' }}"
)

# Each with the texts of its BOS and EOS tokens, and what is found: name, strips, takes_system.
FOUND = {
    "chatml": (CHATML, "<s>", "<|im_end|>", ("chatml", False, True)),
    "zephyr": (ZEPHYR, "<s>", "</s>", ("zephyr", False, True)),
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>", ("llama3-instruct", True, True)),
    "llama2": (LLAMA2, "<s>", "</s>", ("llama2-chat", True, True)),
    "mistral": (MISTRAL, "<s>", "</s>", ("mistral-instruct", False, False)),
    "gemma": (GEMMA, "<bos>", "<eos>", ("gemma-instruct", True, False)),
    "gemma3": (GEMMA3, "<bos>", "<eos>", ("gemma3-instruct", False, True)),
    "phi3": (PHI3, "<s>", "<|endoftext|>", ("phi-3", False, True)),
    "openchat": (OPENCHAT, "<s>", "<|end_of_turn|>", ("openchat", False, True)),
    "alfred": (ALFRED, "", "", ("alfred", False, True)),
    "command-r": (COMMAND_R, "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", ("command-r", True, True)),
    "solar": (SOLAR, "<s>", "</s>", ("solar-instruct", False, True)),
    "granite": (GRANITE, "", "<|endoftext|>", ("granite-instruct", False, True)),
    "vicuna": (VICUNA, "<s>", "</s>", ("vicuna", False, True)),
    "chatqa": (CHATQA, "<|begin_of_text|>", "<|end_of_text|>", ("chatqa", False, True)),
    "alpaca": (ALPACA, "<s>", "</s>", ("alpaca", False, True)),
    "magicoder": (MAGICODER, "<s>", "</s>", ("magicoder", False, True)),
    "codellama-70b": (CODELLAMA, "<s>", "<step>", ("codellama-70b-instruct", True, True)),
    "starcoder2": (STARCODER2, "<|endoftext|>", "<|endoftext|>", ("starcoder2-instruct", False, False)),
}
REFUSED = {
    "blanks kept in one place": LLAMA2_AS_PUBLISHED,
    "a default system text": CHATML_WITH_DEFAULT_SYSTEM,
    "tools": CHATML_WITH_TOOLS,
    "thinking": CHATML_WITH_THINKING,
    "other letters": CHATML_UPPER,
    "other roles": CHATML_TITLED,
    "not all messages": CHATML_LAST_FOUR,
    "a blank more": MISTRAL_WITH_BLANK,
    "changed texts": FALCON,
    "broken": "{% for %}",
    "failing": "{{ raise_exception('no') }}",
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "empty": "",
    "one message": "{{ messages[0].content }}",
}
