"""From the text a model writes back to content, thinking and tool calls."""
