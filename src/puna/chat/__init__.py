"""From conversations to prompts and back."""
